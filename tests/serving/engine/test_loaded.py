"""A loaded model takes new limits as it runs."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import waiting
from calibrated import written

from moe_contract.applications import AttentionConfig, ModelArgs, RoutingConfig
from moe_contract.report import NOT_ADAPTIVE, NOT_FP8
from moe_serving.checkpoint import inspect_model
from moe_serving.engine.cache import KeyValueCache
from moe_serving.routing.gatherer import half_life_of
from moe_serving.serve.loaded import LoadedEngine


def test_statistics_fade_as_fast_as_the_newest_limits_look_at_them(tiny: Path) -> None:
    model = ModelArgs(path=str(tiny), device="cpu")
    loaded = LoadedEngine.load(model, AttentionConfig(statistics_seconds=60.0), "attention", "node", 0)
    try:
        engine, half_life = loaded.engine, loaded.experts.gatherer.half_life
        loaded.reconfigure(AttentionConfig(statistics_seconds=10.0))
        assert (half_life, loaded.experts.gatherer.half_life) == (half_life_of(60.0), half_life_of(10.0))
        assert engine.alive
    finally:
        loaded.stop(10.0)


def test_limits_that_are_not_taken_are_a_problem_of_the_replica(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = LoadedEngine.load(ModelArgs(path=str(tiny), device="cpu"), AttentionConfig(), "attention", "node", 0)
    try:
        assert loaded.problem is None
        monkeypatch.setattr(KeyValueCache, "_allocate", Mock(side_effect=torch.OutOfMemoryError))
        loaded.reconfigure(AttentionConfig(kv_cache_tokens=100_000))
        waiting.wait_until(lambda: loaded.problem is not None, "word of a cache that cannot be had", 60.0)
        assert (loaded.problem or "").startswith("kv_cache_tokens stays 65536: ")
    finally:
        loaded.stop(10.0)


def test_adaptive_routing_comes_and_goes_with_the_limits(tiny: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", inspect_model(str(tiny), "auto"))
    asked = AttentionConfig(routing=RoutingConfig(calibration=str(path), pairs_saved=10))
    loaded = LoadedEngine.load(ModelArgs(path=str(tiny), device="cpu"), asked, "attention", "node", 0)
    try:
        waiting.wait_until(lambda: loaded.adaptive.report is not None, "adaptive routing", 60.0)
        assert loaded.experts._thinning is not None
        assert loaded.problem is None
        loaded.reconfigure(AttentionConfig())
        assert (loaded.adaptive.report, loaded.experts._thinning) == (None, None)
        loaded.reconfigure(AttentionConfig(routing=RoutingConfig(calibration=str(path), pairs_saved=30)))
        waiting.wait_until(lambda: loaded.problem is not None, "word of what is not allowed", 60.0)
        assert (loaded.problem or "").startswith(f"{NOT_ADAPTIVE}: maxLossIncrease 0.005 does not allow pairsSaved 30")
        assert loaded.experts._thinning is None
    finally:
        loaded.stop(10.0)


@pytest.mark.parametrize("verify", [False, True])
def test_fp8_rows_come_and_go_with_the_limits_but_not_where_all_is_verified(tiny: Path, verify: bool) -> None:
    model = ModelArgs(path=str(tiny), device="cpu", verify=verify)
    loaded = LoadedEngine.load(model, AttentionConfig(wire="FP8"), "attention", "node", 0)
    try:
        assert (loaded.wire.in_force == "FP8", loaded.experts._packs) == (not verify, not verify)
        assert (loaded.problem or "").startswith(NOT_FP8 if verify else "")
        assert (loaded.problem is None) == (not verify)
        loaded.reconfigure(AttentionConfig())
        assert (loaded.wire.in_force, loaded.experts._packs, loaded.problem) == ("Model", False, None)
    finally:
        loaded.stop(10.0)
