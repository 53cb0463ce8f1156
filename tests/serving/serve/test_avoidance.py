"""Which replica is chosen, and how long one may take to accept a call; that Serve uses it is seen in test_faults."""

import asyncio
from dataclasses import dataclass

import pytest

from moe_serving.serve.avoidance import AVOID_S, LostReplicas, accepted, has_others, without_lost


@dataclass(frozen=True)
class Id:
    unique_id: str


@dataclass(frozen=True)
class Replica:
    replica_id: Id


A, B, C = (Replica(Id(name)) for name in "abc")


@pytest.mark.parametrize(
    ("ranks", "lost", "left"),
    [
        ([[A, B]], "", [[A, B]]),
        ([[A, B]], "a", [[B]]),
        ([[A], [B, C]], "a", [[], [B, C]]),
        ([[A, B]], "ab", [[C]]),
        ([[A, B]], "abc", [[A, B]]),  # nobody else: perhaps one of them is back
        ([], "a", [[B, C]]),
    ],
)
def test_lost_replicas_are_not_chosen_while_there_are_others(ranks, lost, left) -> None:
    replicas = LostReplicas()
    for name in lost:
        replicas.add(name)
    chosen = without_lost(ranks, [A, B, C], replicas)
    assert [sorted(rank, key=str) for rank in chosen] == left


def test_a_lost_replica_is_avoided_for_a_while() -> None:
    now = 0.0
    lost = LostReplicas(lambda: now)
    lost.add("a")
    now = AVOID_S - 1
    lost.add("b")
    assert "a" in lost
    now += 2
    assert "a" not in lost
    assert "b" in lost


@pytest.mark.parametrize(("known", "others"), [("", False), ("a", False), ("ab", True), ("b", True)])
def test_others_are_counted_without_the_one_asked(known: str, others: bool) -> None:
    """Serve forgets a replica that it ends: who waits for that one must not take the last other one for it."""
    assert has_others("a", list(known)) is others


async def answer(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "accepted"


async def test_a_replica_has_time_to_accept() -> None:
    assert await accepted(answer(0.01), 5, lambda: True) == "accepted"
    with pytest.raises(TimeoutError):
        await accepted(answer(3600), 0.05, lambda: True)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, "the call that was not accepted is still waited for"


async def test_the_only_replica_has_all_the_time() -> None:
    assert await accepted(answer(0.3), 0.05, lambda: False) == "accepted"


async def test_what_accepting_raises_is_raised() -> None:
    async def fail() -> None:
        raise ConnectionError("died")

    with pytest.raises(ConnectionError, match="died"):
        await accepted(fail(), 5, lambda: True)


async def test_who_waits_may_be_cancelled() -> None:
    waiting = asyncio.create_task(accepted(answer(3600), 5, lambda: True))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
