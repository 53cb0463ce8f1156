"""One layer cut into requests and put together again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moe_placement.dispatch import NOBODY
from moe_serving.experts.messages import ComputeReply, ComputeRequest
from moe_serving.routing.layer import LayerWork, Part

HIDDEN = torch.arange(12, dtype=torch.float32).reshape(3, 4)
EXPERTS = torch.tensor([[0, 1], [2, 0], [1, 3]])
WEIGHTS = torch.tensor([[0.5, 0.25], [0.75, 0.125], [1.0, 2.0]])


def work(per_pair: bool = False, dtype: torch.dtype = torch.float32) -> LayerWork:
    return LayerWork(7, HIDDEN.to(dtype), EXPERTS, WEIGHTS.to(dtype), per_pair)


def part_of(layer: LayerWork, mine: np.ndarray) -> Part:
    """The request for the pairs ``mine``, bool ``[T, K]``, of one shard."""
    ((position, part),) = layer.parts(np.where(mine, 5, NOBODY))
    assert position == 5
    return part


def answer(part: Part, missing: tuple[int, ...] = ()) -> ComputeReply:
    """As a shard whose expert ``e`` multiplies rows by ``e + 1``."""
    request = part.request
    row_of_pair = np.repeat(np.arange(len(request.hidden)), np.diff(request.offsets.numpy()))
    factors = (request.experts + 1) * request.weights
    for pair in missing:
        factors[pair] = 0
    outputs = request.hidden.float()[torch.from_numpy(row_of_pair)] * factors[:, None]
    values = outputs
    if not request.per_pair:
        values = torch.zeros(request.hidden.shape).index_add_(0, torch.from_numpy(row_of_pair), outputs)
    return ComputeReply(values, torch.tensor(missing, dtype=torch.int32), request.per_pair)


def expected() -> torch.Tensor:
    return HIDDEN * ((EXPERTS + 1) * WEIGHTS).sum(dim=1, keepdim=True)


def test_a_request_has_each_row_once_and_its_pairs_in_order() -> None:
    mine = np.array([[True, False], [False, False], [True, True]])
    part = part_of(work(), mine)
    request = ComputeRequest.from_message(part.request.to_message())
    assert request.layer == 7
    assert torch.equal(request.hidden, HIDDEN[[0, 2]])
    assert request.offsets.tolist() == [0, 1, 3]
    assert request.experts.tolist() == [0, 1, 3]
    assert request.weights.tolist() == [0.5, 1.0, 2.0]


def test_each_shard_is_asked_for_its_pairs_and_nobody_for_the_others() -> None:
    parts = work().parts(np.array([[1, 0], [300, NOBODY], [0, 1]]))
    assert [(position, part.rows.tolist(), part.request.experts.tolist()) for position, part in parts] == [
        (0, [0, 2], [1, 1]),
        (1, [0, 2], [0, 3]),
        (300, [1], [2]),
    ]
    assert work().parts(np.full((3, 2), NOBODY)) == []


def test_all_rows_are_sent_without_a_copy() -> None:
    part = part_of(work(), np.ones((3, 2), dtype=bool))
    assert part.request.hidden.data_ptr() == HIDDEN.data_ptr()


@pytest.mark.parametrize("per_pair", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_answers_of_two_shards_add_up(per_pair: bool, dtype: torch.dtype) -> None:
    layer = work(per_pair, dtype)
    low = layer.experts < 2
    parts = layer.parts(np.where(low, 3, 0))
    assert [position for position, _ in parts] == [0, 3]
    for _, part in parts:
        assert len(layer.accept(part, answer(part))[0]) == 0
    assert not layer.pending.any()
    assert layer.result().dtype == dtype
    assert torch.equal(layer.result(), expected().to(dtype))


@pytest.mark.parametrize("per_pair", [False, True])
def test_pairs_that_are_not_held_stay_pending_and_count_once(per_pair: bool) -> None:
    layer = work(per_pair)
    part = part_of(layer, layer.pending)
    token, place = layer.accept(part, answer(part, missing=(1, 4)))
    assert [(int(t), int(p)) for t, p in zip(token, place, strict=True)] == [(0, 1), (2, 0)]
    assert layer.pending.tolist() == [[False, True], [False, False], [True, False]]
    rest = part_of(layer, layer.pending)
    layer.accept(rest, answer(rest))
    assert torch.equal(layer.result(), expected())


def test_pair_outputs_are_told_apart() -> None:
    layer = work(per_pair=True)
    part = part_of(layer, layer.pending)
    layer.accept(part, answer(part))
    outputs = layer.pair_outputs()
    assert outputs.shape == (3, 2, 4)
    assert torch.equal(outputs[1, 0], HIDDEN[1] * 3 * 0.75)
