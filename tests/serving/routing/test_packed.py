"""Rows travel as FP8 to the shards that know it, to no other, and only where it was asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_shards import FakeShard
from linked import linked_client

from moe_serving.experts.messages import FP8, FP8_ROWS
from moe_serving.fp8.rows import pack
from moe_serving.routing import layer as module

EXPERTS = 4
HIDDEN = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[0, 1], [2, 3], [2, 0]])
WEIGHTS = torch.tensor([[0.75, 0.25], [1.5, 0.1], [0.5, 0.5]])
KNOWING = frozenset({FP8_ROWS, "what a later release has"})


def expected(hidden: torch.Tensor) -> torch.Tensor:
    return hidden * ((IDS + 1) * WEIGHTS).sum(dim=1, keepdim=True)


def test_shards_that_know_it_are_asked_and_answer_so_and_others_are_not() -> None:
    """The first one has two rows of three, so that a part of what is packed is taken, and then of what is not."""
    for features, flags in ((KNOWING, [FP8, FP8]), (frozenset(), [0, FP8])):
        shards = FakeShard({0, 1}, features=features), FakeShard({2, 3}, features=KNOWING)
        experts = linked_client(EXPERTS, shards)
        experts.pack(True)
        answer = experts.forward(0, HIDDEN, IDS, WEIGHTS)
        assert [message.flags for shard in shards for message in shard.messages] == flags
        torch.testing.assert_close(answer, expected(HIDDEN), rtol=0.2, atol=0.05)
        assert not torch.equal(answer, expected(HIDDEN))


def test_hidden_rows_and_sums_have_a_little_more_than_half_of_the_bytes_of_bf16() -> None:
    hidden = torch.randn(3, 256)
    shard = FakeShard({0, 1, 2, 3}, features=KNOWING)
    experts = linked_client(EXPERTS, [shard])
    experts.pack(True)
    experts.forward(0, hidden, IDS, WEIGHTS)
    (asked,), (answered,) = shard.messages, shard.answers
    for rows, scales in ((asked.tensors[0], asked.tensors[-1]), (answered.tensors[0], answered.tensors[-1])):
        assert rows.nbytes + scales.nbytes <= 0.52 * rows.numel() * torch.bfloat16.itemsize


def test_it_comes_and_goes_and_off_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(rows: torch.Tensor) -> Any:
        calls.append(len(rows))
        return pack(rows)

    monkeypatch.setattr(module, "pack", counted)
    shard = FakeShard({0, 1, 2, 3}, features=KNOWING)
    experts = linked_client(EXPERTS, [shard])
    exact = experts.forward(0, HIDDEN, IDS, WEIGHTS)
    assert calls == []
    experts.pack(True)
    experts.forward(0, HIDDEN, IDS, WEIGHTS)
    assert calls == [3]
    experts.pack(False)
    assert torch.equal(experts.forward(0, HIDDEN, IDS, WEIGHTS), exact)
    assert [message.flags for message in shard.messages] == [0, FP8, 0]
    assert shard.messages[2].tensors[0].data_ptr() == HIDDEN.data_ptr(), "not even copied"


def test_a_row_is_packed_once_however_many_shards_it_goes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(module, "pack", lambda rows: calls.append(len(rows)) or pack(rows))
    shards = [FakeShard({expert}, features=KNOWING) for expert in range(EXPERTS)]
    experts = linked_client(EXPERTS, shards)
    experts.pack(True)
    experts.forward(0, HIDDEN, IDS, WEIGHTS)
    assert calls == [3]
    assert all(message.flags == FP8 for shard in shards for message in shard.messages)


def test_a_broken_connection_sends_what_is_packed_elsewhere() -> None:
    everywhere = [FakeShard({0, 1, 2, 3}, features=KNOWING), FakeShard({0, 1, 2, 3})]
    experts = linked_client(EXPERTS, everywhere)
    experts.pack(True)
    experts.forward(0, HIDDEN, IDS, WEIGHTS)
    next(shard for shard in everywhere if shard.asked).broken = True
    torch.testing.assert_close(experts.forward(0, HIDDEN, IDS, WEIGHTS), expected(HIDDEN), rtol=0.2, atol=0.05)
