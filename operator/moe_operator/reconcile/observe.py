"""Looks at the world of one MoEDeployment: what it runs on, its directory, its Secrets. Reads, and makes one Secret."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from moe_operator.api import MoEDeployment
from moe_operator.finding import Finding
from moe_operator.kube.errors import NameConflictError, SecretError
from moe_operator.kube.secrets import Secrets
from moe_operator.reconcile.memory import Memory
from moe_operator.reconcile.world import World
from moe_operator.runtimes.port import ApplicationPhase, Runtime, Runtimes


@dataclass(frozen=True, slots=True)
class Observer:
    """Where to look. ``clock`` is monotonic, ``now`` is UTC."""

    secrets: Secrets
    runtimes: Runtimes
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def runtime(self, moe: MoEDeployment, memory: Memory) -> Runtime:
        """What it runs on, the same for as long as it is remembered."""
        memory.runtime = memory.runtime or self.runtimes.open(moe)
        return memory.runtime

    async def observe(self, moe: MoEDeployment, memory: Memory) -> World:
        """All that can be seen now; what cannot be is a finding of the world, never an error."""
        state = await self.runtime(moe, memory).observe(moe)
        world = World(moe=moe, now=self.now(), runtime=state, key_problem=state.unasked)
        if state.unreachable or state.is_known:
            seconds = memory.runtime_failing(not state.is_known, self.clock())
            world = replace(world, unreachable_seconds=seconds)
        if state.is_known:
            given_up = frozenset(
                each.name for each in state.applications.values() if each.phase is ApplicationPhase.FAILED
            )
            world = replace(world, failed_seconds=memory.failed(given_up, self.clock()))
        if _needs_no_keys(world):
            memory.reported = False
            return world
        return await self._observe_directory(world, memory)

    async def _observe_directory(self, world: World, memory: Memory) -> World:
        try:
            await self.secrets.check_model_secret(world.moe)
            world = replace(world, keys=await self.secrets.key_hashes(world.moe))
        except NameConflictError as error:
            return self._without_report(replace(world, key_problem=Finding(error.reason, str(error))), memory)
        except SecretError as error:
            world = replace(world, key_problem=world.key_problem or Finding(error.reason, str(error)))
        if world.report:
            memory.report_failing(False, self.clock())
            memory.reported = True
            started = {shard.phase != "Starting" for shard in world.report.shards}
            missing = memory.shards_missing(len(started) > 1, self.clock())
            world = replace(world, shards_missing_seconds=missing)
        elif world.runtime.is_known and world.core is None:
            memory.reported = False
        else:
            world = self._without_report(world, memory)
        seen = max(world.target.term, world.report.term if world.report else 0)
        return replace(world, term=memory.claim_term(seen))

    def _without_report(self, world: World, memory: Memory) -> World:
        # After a restart the status tells what this process cannot remember.
        memory.reported = memory.reported or world.moe.status.serves
        # A core application that is still starting has no directory to miss.
        missed = memory.reported or world.core is None or world.core.phase is ApplicationPhase.RUNNING
        return replace(world, report_failing_seconds=memory.report_failing(missed, self.clock()))


def _needs_no_keys(world: World) -> bool:
    """Whether there is no directory to ask and none to be made, so that not even a key for it is wanted."""
    if not world.runtime.is_known:
        return world.moe.status.model is None
    if world.moe.spec.suspend:
        return world.core is None
    return world.moe.spec.experts.shards == 0
