"""Copies that others doubt: what has changed in memory is freed, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from waiting import wait_until

from moe_serving.checkpoint.reader import ExpertForm
from moe_serving.experts import examiner as examiner_module
from moe_serving.experts.examiner import Examiner
from moe_serving.experts.pool import ExpertPool

FORM = ExpertForm(hidden=4, intermediate=3, dtype=torch.float32, activation="silu")


@pytest.fixture
def pool() -> ExpertPool:
    """Holds two experts of layer 1."""
    made = ExpertPool(2, 4, FORM, torch.device("cpu"))
    made.capacity = 4
    for expert in (2, 3):
        fill(made, expert)
    return made


def fill(pool: ExpertPool, expert: int) -> None:
    with pool.reserve(1, expert) as slot:
        slot.weights.gate_up.fill_(1.0)
        slot.weights.down.fill_(1.0)
        slot.publish()


def damage(pool: ExpertPool, expert: int) -> None:
    with pool.pinned(1, [expert]) as slots:
        slots[expert].weights.down[0, 0] = 2.0


@pytest.fixture
def told() -> list[None]:
    return []


@pytest.fixture
def examiner(pool: ExpertPool, told: list[None]) -> Iterator[Examiner]:
    made = Examiner(pool, lambda: told.append(None))
    made.start()
    yield made
    made.stop(60)


def test_what_has_changed_is_freed_and_told(pool: ExpertPool, examiner: Examiner, told: list[None]) -> None:
    damage(pool, 3)
    examiner.doubt((1, 2))
    examiner.doubt((1, 3))
    wait_until(lambda: bool(told), "the copy to be given up")
    assert examiner.counts == {"damaged": 1}
    assert (1, 3) not in pool
    assert not pool.held()[1, 3]
    fill(pool, 3)
    assert (1, 3) in pool


def test_what_is_as_it_was_stays(pool: ExpertPool, examiner: Examiner, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    digest_of = examiner_module.digest_of
    monkeypatch.setattr(examiner_module, "digest_of", lambda weights: looked.append(1) or digest_of(weights))
    for key in [(1, 2), (0, 0), (9, 9)]:  # the others it does not hold
        examiner.doubt(key)
    wait_until(lambda: bool(looked), "the copy to be looked at")
    examiner.stop(60)
    assert len(looked) == 1
    assert pool.held().sum() == 2
    assert examiner.counts == {}


def test_a_copy_that_came_meanwhile_is_not_given_up_for_the_one_before(
    pool: ExpertPool, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def replaced(weights: object) -> bytes:
        pool.free(1, 3)
        fill(pool, 3)
        looked.append(1)
        return b"another one"

    monkeypatch.setattr(examiner_module, "digest_of", replaced)
    examiner.doubt((1, 3))
    wait_until(lambda: bool(looked), "the copy to be looked at")
    examiner.stop(60)
    assert (1, 3) in pool
    assert examiner.counts == {}
