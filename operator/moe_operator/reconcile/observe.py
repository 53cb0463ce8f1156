"""Looks at the world of one MoEDeployment: its Secrets, its Ray cluster, its directory. Reads, and makes one Secret."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from moe_contract.applications import key_digest
from moe_operator.api import MoEDeployment
from moe_operator.kube.errors import NameConflictError, SecretError, SecretNotAllowedError
from moe_operator.kube.secrets import Secrets
from moe_operator.reconcile.memory import Memory
from moe_operator.reconcile.world import Finding, KeyHashes, World
from moe_operator.runtimes.credential import Check, Credential
from moe_operator.runtimes.directory import Directories
from moe_operator.runtimes.errors import (
    DirectoryError,
    KeyRefusedError,
    RayAddressRefusedError,
    RayAnswerRefusedError,
    RayAuthError,
    RayError,
    StalePlanError,
)
from moe_operator.runtimes.ray_cluster.serve_rest.cluster import ServeCluster, ServeClusters


@dataclass(frozen=True, slots=True)
class Observer:
    """Where to look. ``clock`` is monotonic, ``now`` is UTC."""

    secrets: Secrets
    directories: Directories
    clusters: ServeClusters
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def cluster(self, moe: MoEDeployment) -> ServeCluster:
        """The Ray cluster that it runs on."""
        return self.clusters.at(moe.ray_cluster.dashboard_url)

    async def credential(self, moe: MoEDeployment, memory: Memory, fresh: bool = False) -> Credential | None:
        """The token of its Ray cluster, if the spec names one; SecretError says why it cannot be had or sent."""
        token = await self._token(moe, memory, fresh)
        return None if token is None else Credential(token, self.same_token(moe, memory, token))

    def same_token(self, moe: MoEDeployment, memory: Memory, token: str) -> Check:
        """Whether ``token`` is still the one of its Secret and may still be sent."""

        async def check() -> None:
            if await self._token(moe, memory, fresh=True) != token:
                raise StalePlanError(f"the token of {moe.key} is another one by now")

        return check

    async def _token(self, moe: MoEDeployment, memory: Memory, fresh: bool) -> str | None:
        try:
            return await self.secrets.ray_token(moe, fresh)
        except SecretNotAllowedError:
            memory.credential = None  # what was forbidden stays so when its Secret is gone
            raise

    def same_keys(self, world: World) -> Check:
        """Whether the keys whose hashes ``world`` has are still those of their Secrets."""

        async def check() -> None:
            if world.keys is not None and world.keys != await self._key_hashes(world.moe, fresh=True):
                raise StalePlanError(f"the API keys of {world.moe.key} are others by now")

        return check

    async def observe(self, moe: MoEDeployment, memory: Memory) -> World:
        """All that can be seen now; what cannot be is a finding of the world, never an error."""
        world = World(moe=moe, now=self.now(), lost=memory.lost(self.clock()), edited=memory.edited(self.clock()))
        world = await self._observe_serve(world, memory)
        if _needs_no_directory(world):
            memory.reported = False
            return world
        return await self._observe_directory(world, memory)

    async def _observe_serve(self, world: World, memory: Memory) -> World:
        moe = world.moe
        try:
            credential = await self.credential(moe, memory)
            serve = await self.cluster(moe).observe(credential)
        except SecretError as error:
            return replace(world, key_problem=Finding(error.reason, str(error)))
        except RayError as error:
            if isinstance(error, RayAuthError):
                self.secrets.token_refused(moe)
            failing = memory.runtime_failing(True, self.clock())
            memory.serve_absent(False, self.clock())
            problem = Finding(error.reason, str(error))
            return replace(world, runtime_problem=problem, runtime_failing_seconds=failing)
        memory.runtime_failing(False, self.clock())
        memory.credential = credential
        absent = memory.serve_absent(not serve.controller, self.clock())
        world = replace(world, serve=serve, serve_absent_seconds=absent)
        given_up = frozenset(a.name for a in world.applications.values() if a.status == "DEPLOY_FAILED")
        return replace(
            world,
            failed_seconds=memory.failed(given_up, self.clock()),
            remembered=self.cluster(moe).remembered(world.core_name),
            tampered=frozenset(self.cluster(moe).edited(world.core_name, serve)),
        )

    async def _observe_directory(self, world: World, memory: Memory) -> World:
        try:
            key = await self.secrets.internal_key(world.moe)
        except NameConflictError as error:
            world = replace(world, key_problem=Finding(error.reason, str(error)))
            return self._without_report(world, memory)
        world = await self._read_key_hashes(world)
        if world.serve is None or world.core is not None:
            world = await self._read_report(world, memory, key)
        else:
            memory.reported = False
        seen = max(world.target.term, world.report.term if world.report else 0)
        return replace(world, term=memory.claim_term(seen))

    async def _read_key_hashes(self, world: World) -> World:
        try:
            return replace(world, keys=await self._key_hashes(world.moe))
        except SecretError as error:
            return replace(world, key_problem=world.key_problem or Finding(error.reason, str(error)))

    async def _key_hashes(self, moe: MoEDeployment, fresh: bool = False) -> KeyHashes:
        internal = await self.secrets.internal_key(moe, fresh)
        return KeyHashes(key_digest(internal), await self.secrets.api_key_hashes(moe, fresh))

    async def _read_report(self, world: World, memory: Memory, key: str) -> World:
        moe = world.moe
        route = (world.core.route_prefix if world.core else None) or moe.route_prefix
        try:
            report = await self.directories.read(moe.ray_cluster.serve_url, route, key)
        except (DirectoryError, RayAddressRefusedError, RayAnswerRefusedError) as error:
            if isinstance(error, KeyRefusedError):
                self.secrets.internal_key_refused(moe)
            world = replace(world, report_problem=Finding(error.reason, str(error)))
            return self._without_report(world, memory)
        memory.report_failing(False, self.clock())
        memory.reported = True
        return replace(world, report=report)

    def _without_report(self, world: World, memory: Memory) -> World:
        # After a restart the status tells what this process cannot remember.
        memory.reported = memory.reported or world.moe.status.serves
        # A core application that is still starting has no directory to miss.
        missed = memory.reported or world.core is None or world.core.status == "RUNNING"
        return replace(world, report_failing_seconds=memory.report_failing(missed, self.clock()))


def _needs_no_directory(world: World) -> bool:
    """Whether there is no directory to ask and none to be made, so that not even a key for it is wanted."""
    if world.serve is None:
        return world.moe.status.model is None
    if world.moe.spec.suspend:
        return world.core is None
    return world.moe.spec.experts.shards == 0
