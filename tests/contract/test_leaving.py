"""A shard that leaves though it is dead: what the directory reports of it, and what the operator makes of it."""

import pytest
from data_plane import DataPlane, deployment
from intents import told
from scene import FACTS, Scene

from moe_operator.reconcile.intent import Intent
from moe_serving.directory.directory import HEARING_SECONDS
from moe_serving.directory.leases import LEASE_SECONDS
from moe_serving.directory.monitor import FORGOTTEN_SECONDS, LOST_SECONDS


class Both:
    """The operator, and a directory that is told what it wants."""

    def __init__(self) -> None:
        self.plane = DataPlane(deployment(shards=3), facts=FACTS)
        self.scene = Scene(shards=3)

    def run(self) -> Intent:
        intent = self.plane.run()
        self.scene.directory.configure(intent.target.model_dump(mode="json"))
        return intent

    async def report(self, turns: int = 4) -> None:
        await self.scene.turns(turns)
        self.plane.more = {"report": self.scene.directory.report()}


@pytest.fixture
async def both() -> Both:
    """Three shards are wanted, and told."""
    both = Both()
    await both.scene.directory.inspect_model()
    both.plane.run()
    assert told(both.run())[0] == [0, 1, 2]
    return both


async def test_one_that_never_answered_leaves(both: Both) -> None:
    both.scene.shards[2].fault = TimeoutError()
    both.scene.now += max(HEARING_SECONDS, LEASE_SECONDS)
    await both.report()
    both.plane.change(shards=2)
    assert told(both.run())[0] == [0, 1, 2], "its copies come to others first"
    await both.report()
    assert both.scene.table is not None
    assert both.scene.table.complete
    assert told(both.run())[0] == [0, 1]


async def test_one_that_fell_silent_leaves_once_it_has_left_the_table(both: Both) -> None:
    both.scene.now += LEASE_SECONDS
    await both.report()
    both.scene.shards[2].fault = TimeoutError()
    both.scene.now += LOST_SECONDS
    await both.report()
    both.plane.change(shards=2)
    both.run()
    await both.report()
    assert told(both.run())[0] == [0, 1, 2], "it may still compute"
    both.scene.now += FORGOTTEN_SECONDS
    await both.report()
    assert told(both.run())[0] == [0, 1]
