"""Where an intent is computed, and what becomes of one that takes too much."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from moe_facts import FACTS
from placement_objects import content, moved, stored

from moe_operator.offload.errors import JobLostError, JobTooHeavyError
from moe_operator.offload.process import WorkerProcess
from moe_operator.placements.book import Book
from moe_operator.reconcile.decider import SHORT_TEXT, Decider
from moe_operator.reconcile.intent import Step, next_intent
from moe_placement import Placement
from moe_placement.encoding import encode_placement


@pytest.fixture
async def worker() -> AsyncIterator[WorkerProcess]:
    async with WorkerProcess() as made:
        yield made


class Broken:
    """A worker process in which nothing comes to its end."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    async def run(self, owner: str, bounds: Any, job: Callable[..., Any], *arguments: Any) -> Any:
        self.asked += 1
        raise self.error


def of_size(make_plane) -> Any:
    plane = make_plane(shards=64)
    plane.facts = FACTS.model_copy(update={"layers": 48, "experts": 128})
    plane.run()
    return plane


async def test_what_is_small_waits_for_nobody(make_plane, worker: WorkerProcess) -> None:
    plane = make_plane()
    plane.settle()
    assert await Decider(worker).decide(plane.world(), "ray") == next_intent(plane.world())
    assert worker.pid is None


async def test_what_is_of_size_is_decided_elsewhere_and_the_same(make_plane, worker: WorkerProcess) -> None:
    plane, decider = of_size(make_plane), Decider(worker)
    for _ in range(3):
        assert await decider.decide(plane.world(), "ray") == next_intent(plane.world())
        plane.run()
    assert worker.pid is not None


async def test_large_placements_that_wait_are_read_elsewhere(make_plane, worker: WorkerProcess) -> None:
    plane = make_plane()
    plane.settle()
    large = stored(content(moved(58, 256, 32, 9), digest=FACTS.digest), decision="Approved")
    world = replace(plane.world(), book=Book.of([large]))
    assert world.book.characters > SHORT_TEXT
    intent = await Decider(worker).decide(world, "ray")
    assert worker.pid is not None
    assert intent == next_intent(world)
    assert intent.choice.judgements[2].reason == "OtherModel"


async def test_what_takes_too_much_changes_nothing_and_is_not_tried_again_at_once(make_plane) -> None:
    plane = of_size(make_plane)
    broken = Broken(JobTooHeavyError("took more than 30 s"))
    decider = Decider(broken)  # type: ignore[arg-type]
    for _ in range(3):
        intent = await decider.decide(plane.world(), "ray")
        assert (intent.step, intent.desired, intent.target) == (Step.NOTHING, None, plane.world().target)
        assert intent.problem.reason == "PlacementTooLarge"
        assert intent.problem.message.startswith(
            "placing 48 layers of 128 experts on 64 shards took more than 30 s: use"
        )
    assert broken.asked == 1


async def test_a_process_that_ended_is_no_fault_of_the_object(make_plane) -> None:
    broken = Broken(JobLostError("the worker process ended with -9"))
    with pytest.raises(JobLostError):
        await Decider(broken).decide(of_size(make_plane).world(), "ray")  # type: ignore[arg-type]


async def test_a_short_text_that_unpacks_to_much_is_of_size(make_plane) -> None:
    plane = make_plane()
    plane.settle()
    plane.settled = False
    plane.placement = encode_placement(Placement.of(np.zeros((1024, 780), dtype=np.int32), [1] * 780, 1))
    assert len(plane.placement) < SHORT_TEXT
    broken = Broken(JobLostError("the worker process ended with -9"))
    with pytest.raises(JobLostError):
        await Decider(broken).decide(plane.world(), "ray")  # type: ignore[arg-type]
