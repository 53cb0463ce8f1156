"""The arithmetic of a shard against transformers' eager order of operations."""

from __future__ import annotations

import pytest
import torch

from moe_serving.checkpoint.reader import ExpertWeights
from moe_serving.experts.compute import ACTIVATIONS, compute, pair_output
from moe_serving.experts.messages import ComputeReply, ComputeRequest
from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.kinds import ExpertKind
from moe_serving.wire.transport import Message

HIDDEN, INNER, EXPERTS, TOP_K = 32, 48, 6, 3
CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def weights_of(
    dtype: torch.dtype, without: frozenset[int] = frozenset(), activation: str = "silu"
) -> dict[int, ExpertWeights]:
    """All experts of one layer, but those left out."""
    generator = torch.Generator().manual_seed(0)
    made = {
        expert: ExpertWeights(
            (torch.randn(2 * INNER, HIDDEN, generator=generator) / 6).to(dtype),
            (torch.randn(HIDDEN, INNER, generator=generator) / 7).to(dtype),
            activation,
        )
        for expert in range(EXPERTS)
    }
    return {expert: weights for expert, weights in made.items() if expert not in without}


def request(rows: int, dtype: torch.dtype, per_pair: bool = False) -> ComputeRequest:
    generator = torch.Generator().manual_seed(rows)
    experts = torch.stack([torch.randperm(EXPERTS, generator=generator)[:TOP_K] for _ in range(rows)])
    return ComputeRequest(
        layer=1,
        hidden=torch.randn(rows, HIDDEN, generator=generator).to(dtype),
        offsets=torch.arange(0, rows * TOP_K + 1, TOP_K, dtype=torch.int32),
        experts=experts.flatten().to(torch.int32),
        weights=torch.rand(rows * TOP_K, generator=generator),
        per_pair=per_pair,
    )


def eager(weights: dict[int, ExpertWeights], asked: ComputeRequest, activation: str = "silu") -> torch.Tensor:
    """float64 sums over all pairs, expert by expert."""
    sums = torch.zeros(asked.hidden.shape, dtype=torch.float64)
    for pair, expert in enumerate(asked.experts.tolist()):
        own = weights.get(expert)
        if own is None:
            continue
        row = asked.hidden[pair // TOP_K].double()
        gate, up = (own.gate_up.double() @ row).chunk(2)
        sums[pair // TOP_K] += own.down.double() @ (ACTIVATIONS[activation](gate) * up) * asked.weights[pair].double()
    return sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_partial_sums(rows: int, dtype: torch.dtype) -> None:
    weights, asked = weights_of(dtype), request(rows, dtype)
    reply = compute(weights, asked, CPU)
    assert reply.values.dtype == torch.float32
    torch.testing.assert_close(
        reply.values.double(), eager(weights, asked), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )
    assert reply.missing.tolist() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations(activation: str, dtype: torch.dtype) -> None:
    weights, asked = weights_of(dtype, activation=activation), request(3, dtype)
    torch.testing.assert_close(
        compute(weights, asked, CPU).values.double(),
        eager(weights, asked, activation),
        atol=TOLERANCE[dtype],
        rtol=TOLERANCE[dtype],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("per_pair", [False, True])
@pytest.mark.parametrize("rows", [1, 9])
def test_pairs_that_are_not_held_are_named_and_left_out(rows: int, per_pair: bool, dtype: torch.dtype) -> None:
    weights, asked = weights_of(dtype, without=frozenset({0, 4})), request(rows, dtype, per_pair)
    reply = compute(weights, asked, CPU)
    lacking = [pair for pair, expert in enumerate(asked.experts.tolist()) if expert in {0, 4}]
    assert sorted(reply.missing.tolist()) == lacking
    sums = reply.values.reshape(rows, TOP_K, HIDDEN).sum(dim=1) if per_pair else reply.values
    torch.testing.assert_close(sums.double(), eager(weights, asked), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_a_pair_has_the_same_bits_in_every_batch() -> None:
    weights = weights_of(torch.float32)
    asked = request(9, torch.float32, per_pair=True)
    outputs = compute(weights, asked, CPU).values
    for pair, expert in enumerate(asked.experts.tolist()):
        own = weights.get(expert)
        assert own is not None
        alone = pair_output(own, asked.hidden[pair // TOP_K : pair // TOP_K + 1].clone(), float(asked.weights[pair]))
        assert torch.equal(outputs[pair], alone[0])


def test_rows_without_any_pair_and_no_rows_at_all() -> None:
    for rows in (0, 2):
        empty = ComputeRequest(
            1,
            torch.ones(rows, HIDDEN),
            torch.zeros(rows + 1, dtype=torch.int32),
            torch.zeros(0, dtype=torch.int32),
            torch.zeros(0),
        )
        assert torch.equal(compute(weights_of(torch.float32), empty, CPU).values, torch.zeros(rows, HIDDEN))


def test_messages_round_trip() -> None:
    asked = request(3, torch.bfloat16, per_pair=True)
    again = ComputeRequest.from_message(asked.to_message())
    assert again.per_pair
    assert torch.equal(again.experts, asked.experts)
    reply = compute(weights_of(torch.bfloat16, without=frozenset({1})), asked, CPU)
    assert torch.equal(ComputeReply.from_message(reply.to_message(), asked).missing, reply.missing)


@pytest.mark.parametrize(
    ("index", "tensor", "message"),
    [
        (0, torch.zeros(3, HIDDEN, dtype=torch.int32), "rows must be floats"),
        (0, torch.zeros(HIDDEN), "rows must be floats"),
        (1, torch.tensor([0, 3, 6], dtype=torch.int32), "3 rows with offsets"),
        (1, torch.tensor([0, 7, 6, 9], dtype=torch.int32), "offsets do not run"),
        (1, torch.tensor([1, 3, 6, 9], dtype=torch.int32), "offsets do not run"),
        (1, torch.tensor([0, 3, 6, 10], dtype=torch.int32), "offsets do not run"),
        (1, torch.tensor([0.0, 3, 6, 9]), "must be int32"),
        (2, torch.zeros(9, dtype=torch.int64), "must be int32"),
        (2, torch.zeros(8, dtype=torch.int32), "3 rows with offsets"),
        (3, torch.zeros(9, dtype=torch.float16), "weights float32"),
    ],
)
def test_requests_that_contradict_themselves(index: int, tensor: torch.Tensor, message: str) -> None:
    good = request(3, torch.float32).to_message()
    tensors = [*good.tensors]
    tensors[index] = tensor
    with pytest.raises(ProtocolError, match=message):
        ComputeRequest.from_message(Message(good.kind, good.meta, tuple(tensors)))


def test_other_kinds_flags_and_counts_are_refused() -> None:
    good = request(3, torch.float32).to_message()
    for bad in (
        Message(ExpertKind.PARTIAL_SUMS, good.meta, good.tensors),
        Message(good.kind, b"", good.tensors),
        Message(good.kind, good.meta, good.tensors[:3]),
        Message(good.kind, good.meta, good.tensors, flags=8),
    ):
        with pytest.raises(ProtocolError):
            ComputeRequest.from_message(bad)


def test_replies_that_do_not_fit_the_request_are_refused() -> None:
    asked = request(3, torch.float32)
    good = compute(weights_of(torch.float32), asked, CPU)
    for bad in (
        ComputeReply(good.values[:2], good.missing),
        ComputeReply(good.values.double().to(torch.int32), good.missing),
        ComputeReply(good.values, torch.tensor([9], dtype=torch.int32)),
        ComputeReply(good.values, torch.tensor([-1], dtype=torch.int32)),
        ComputeReply(good.values, good.missing, per_pair=True),
    ):
        with pytest.raises(ProtocolError):
            ComputeReply.from_message(bad.to_message(), asked)
