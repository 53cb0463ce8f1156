"""Experts as e4m3 with a scale for each row: one tensor a matrix, as large as foretold, and what they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_contract.applications import ModelArgs
from moe_serving.checkpoint.reader import ExpertForm, ExpertReader, ExpertWeights, digest_of
from moe_serving.experts import shard as shard_module
from moe_serving.experts.compute import answer_compute, compute
from moe_serving.experts.messages import ComputeReply, ComputeRequest
from moe_serving.experts.pool import ExpertPool
from moe_serving.experts.shard import _reader
from moe_serving.fp8 import weights as weights_module
from moe_serving.fp8.errors import Fp8Error
from moe_serving.fp8.rows import E4M3, pack
from moe_serving.fp8.sizes import packed_expert_bytes, packed_height
from moe_serving.fp8.weights import PackingReader, UnpackedExperts, pack_into, unpacked

CPU = torch.device("cpu")


def packed(matrix: torch.Tensor) -> torch.Tensor:
    rows, columns = matrix.shape
    made = torch.full((packed_height(rows, columns), columns), 0x55, dtype=torch.uint8).view(E4M3)
    pack_into(made, matrix)
    return made


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.sampled_from([1, 64, 1 << 20]))
def test_a_matrix_and_its_scales_fit_one_tensor(rows: int, columns: int, seed: int, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(weights_module, "_AT_ONCE", at_once)
        _fits_one_tensor(rows, columns, seed)


def _fits_one_tensor(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    made = packed(matrix)
    assert torch.equal(unpacked(made, rows, torch.float32), pack(matrix).unpacked(torch.float32))
    assert torch.equal(made.view(torch.uint8), packed(matrix).view(torch.uint8)), "nothing of it is left to chance"
    assert made.nbytes - matrix.numel() - 4 * rows < columns, "not a row too many"


@given(st.integers(1, 300), st.integers(1, 300))
def test_bytes_of_an_expert_are_those_foretold(hidden: int, intermediate: int) -> None:
    form = ExpertForm(hidden, intermediate, E4M3, "silu", unpacked=torch.bfloat16)
    assert form.nbytes == packed_expert_bytes(hidden, intermediate)
    assert form.nbytes == sum(rows * columns for rows, columns in (form.gate_up, form.down))


def test_a_large_expert_takes_half_of_bf16_and_little_more() -> None:
    """Of DeepSeek-V3 and of the tiny model."""
    for hidden, intermediate, most in ((7168, 2048, 0.5008), (256, 112, 0.52)):
        assert packed_expert_bytes(hidden, intermediate) < most * 2 * 3 * hidden * intermediate


@pytest.fixture(scope="module")
def path(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("mixtral")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_read_is_packed_and_facts_say_how_large_it_is(path: Path, dtype: str) -> None:
    plain, packing = ExpertReader(path, dtype, "cpu"), PackingReader(path, dtype, "cpu")
    whole, found = plain.read(2, 3), packing.read(2, 3)
    form = packing.form
    assert (found.gate_up.shape, found.down.shape) == (form.gate_up, form.down)
    assert (form.dtype, form.rows_dtype) == (E4M3, plain.form.dtype)
    assert form.nbytes == packing.checkpoint.facts(dtype, "FP8").bytes_per_expert
    assert plain.form.nbytes == packing.checkpoint.facts(dtype).bytes_per_expert
    again = UnpackedExperts({3: found}, form)[3]
    for name in ("gate_up", "down"):
        expected = pack(getattr(whole, name)).unpacked(plain.form.dtype)
        assert torch.equal(getattr(again, name), expected)
    assert digest_of(found) == digest_of(packing.read(2, 3)), "copies of two shards are interchangeable"


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("wire", ["Model", "FP8"])
def test_a_shard_computes_with_what_it_holds(path: Path, rows: int, wire: str) -> None:
    packing = PackingReader(path, "float32", "cpu")
    pool = ExpertPool(4, 8, packing.form, CPU)
    pool.capacity = 2
    for expert in (1, 6):
        with pool.reserve(0, expert) as slot:
            packing.read_into(slot.weights, 0, expert)
            slot.publish()
    plain = ComputeRequest(
        layer=0,
        hidden=torch.randn(rows, packing.form.hidden, generator=torch.Generator().manual_seed(0)),
        offsets=torch.arange(0, 3 * rows + 1, 3, dtype=torch.int32),
        experts=torch.tensor([1, 6, 2] * rows, dtype=torch.int32),
        weights=torch.full((3 * rows,), 0.5),
    )
    sent = pack(plain.hidden)
    asked = plain if wire == "Model" else replace(plain, hidden=sent.values, scales=sent.scales)
    reply = ComputeReply.from_message(answer_compute(pool, asked.to_message(), CPU), asked)
    with pool.pinned(0, [1, 6]) as slots:
        held = UnpackedExperts({expert: slot.weights for expert, slot in slots.items()}, packing.form)
        assert (sorted(held), len(held), held.get(2)) == ([1, 6], 2, None)
        weights: dict[int, ExpertWeights] = dict(held)
    expected = compute(weights, asked.unpacked(torch.float32), CPU)
    values = expected.values if wire == "Model" else pack(expected.values).unpacked(torch.float32)
    assert torch.equal(reply.values, values)
    assert reply.missing.tolist() == expected.missing.tolist() == [3 * row + 2 for row in range(rows)]
    own = ExpertReader(path, "float32", "cpu")
    exact = compute({expert: own.read(0, expert) for expert in (1, 6)}, plain, CPU).values
    error = (reply.values - exact).norm() / exact.norm()
    assert 1e-4 < error < 0.1


def test_a_shard_on_a_device_that_cannot_or_that_is_to_verify_refuses(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ModelArgs(path=str(path), dtype="float32", weights="FP8")
    assert isinstance(_reader(args, CPU), PackingReader)
    assert not isinstance(_reader(args.model_copy(update={"weights": "Checkpoint"}), CPU), PackingReader)
    with pytest.raises(Fp8Error, match="weights FP8: verify compares each layer with the checkpoint bit for bit"):
        _reader(args.model_copy(update={"verify": True}), CPU)
    monkeypatch.setattr(shard_module, "why_not", lambda device: f"device {device} has no e4m3: not implemented")
    with pytest.raises(Fp8Error, match="weights FP8: device cpu has no e4m3: not implemented; set weights to Check"):
        _reader(args, CPU)
