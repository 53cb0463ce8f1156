"""Pairs that adaptive routing leaves out are asked of nobody, and counted; without it nothing is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_shards import FakeShard
from linked import linked_client

from moe_placement.dispatch import NO_EXPERT
from moe_placement.statistics import decode_statistics
from moe_serving.adaptive.curve import Curve, LossIncrease, Point
from moe_serving.adaptive.thinning import Thinning
from moe_serving.routing import client as client_module
from moe_serving.routing.layer import LayerWork

EXPERTS = 4
HIDDEN = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
IDS = torch.tensor([[0, 1], [2, 3], [1, 0]])
WEIGHTS = torch.tensor([[0.75, 0.25], [1.5, 0.1], [0.5, 0.5]])
KEPT_IDS = torch.tensor([[0, 1], [2, 2], [1, 0]])
KEPT_WEIGHTS = torch.tensor([[0.75, 0.25], [1.6, 0.0], [0.5, 0.5]])


def shards() -> list[FakeShard]:
    return [FakeShard({0, 2}), FakeShard({1, 3})]


def thinning(threshold: float = 0.9) -> Thinning:
    return Thinning(Curve([Point(20.0, (threshold,), LossIncrease(0, 0, 0))]), 20.0, 1.0)


def expected(ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return HIDDEN * ((ids + 1) * weights).sum(dim=1, keepdim=True)


def test_what_is_left_out_is_asked_of_nobody() -> None:
    asked = shards()
    experts = linked_client(EXPERTS, asked)
    experts.thin(thinning())
    torch.testing.assert_close(experts.forward(0, HIDDEN, IDS, WEIGHTS), expected(KEPT_IDS, KEPT_WEIGHTS))
    assert [sorted(shard.asked[0]) for shard in asked] == [[0, 0, 2], [1, 1]]
    experts.thin(None)
    torch.testing.assert_close(experts.forward(0, HIDDEN, IDS, WEIGHTS), expected(IDS, WEIGHTS))


def test_it_is_counted_and_told_to_who_plans_as_what_runs() -> None:
    experts = linked_client(EXPERTS, shards())
    experts.thin(thinning())
    experts.forward(0, HIDDEN, IDS, WEIGHTS)
    (window,) = experts.take_windows()
    assert (window.skipped, window.chosen, window.touched) == (1, 4, 3)
    assert window.load.tolist() == [[2, 2, 1, 0]]
    assert (window.rows.tolist(), int(window.pairs.sum()), window.failovers) == ([3], 5, 0)
    gathered = experts.take_statistics()
    assert gathered is not None
    assert decode_statistics(gathered.packed).load.tolist() == [[2, 2, 1, 0]]


def test_all_that_is_left_goes_elsewhere_when_a_connection_breaks() -> None:
    everywhere = [FakeShard({0, 1, 2, 3}), FakeShard({0, 1, 2, 3})]
    experts = linked_client(EXPERTS, everywhere)
    experts.thin(thinning())
    experts.forward(0, HIDDEN, IDS, WEIGHTS)
    experts.take_windows()
    next(shard for shard in everywhere if shard.asked).broken = True
    torch.testing.assert_close(experts.forward(0, HIDDEN, IDS, WEIGHTS), expected(KEPT_IDS, KEPT_WEIGHTS))
    (window,) = experts.take_windows()
    assert window.failovers > 0
    assert window.skipped == 1


def test_exact_routing_sends_the_bits_of_the_gate_and_calls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither before adaptive routing was in force, nor after."""
    works: list[LayerWork] = []

    class Kept(LayerWork):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            works.append(self)

        def keep(self, *_: Any) -> None:
            raise AssertionError("something was left out")

    experts = linked_client(EXPERTS, shards())
    monkeypatch.setattr(client_module, "LayerWork", Kept)
    first = experts.forward(0, HIDDEN, IDS, WEIGHTS)
    experts.thin(thinning())
    experts.thin(None)
    second = experts.forward(0, HIDDEN, IDS, WEIGHTS)
    assert torch.equal(first, second)
    for work in works:
        assert work.experts.tobytes() == IDS.numpy().tobytes()
        assert work.gates.tobytes() == WEIGHTS.numpy().tobytes()
        assert work.experts.ctypes.data == IDS.numpy().ctypes.data  # not even copied
    (window,) = experts.take_windows()
    assert (window.skipped, window.chosen, window.touched) == (0, 0, 0)


def test_where_nothing_is_weak_the_answer_has_the_same_bits() -> None:
    experts = linked_client(EXPERTS, shards())
    exact = experts.forward(0, HIDDEN, IDS, WEIGHTS)
    experts.thin(thinning(threshold=0.99))
    assert torch.equal(experts.forward(0, HIDDEN, IDS, WEIGHTS), exact)


def test_a_row_keeps_its_first_place_so_that_it_is_seen_to_have_come() -> None:
    """A gate whose strongest expert is not the first."""
    experts = linked_client(EXPERTS, shards())
    experts.thin(thinning())
    ids, weights = torch.tensor([[3, 2]]), torch.tensor([[0.05, 0.95]])
    experts.forward(0, HIDDEN[:1], ids, weights)
    (window,) = experts.take_windows()
    assert window.rows.tolist() == [1]
    assert window.load.tolist() == [[0, 0, 1, 0]]
    assert NO_EXPERT == -1
