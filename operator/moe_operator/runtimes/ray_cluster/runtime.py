"""One deployment on a Ray cluster: what the port asks, by Serve's REST API and its directory."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from moe_contract.rendering import Desired
from moe_contract.serve.merge import Change, Conflict, owned
from moe_contract.serve.state import ServeState
from moe_operator.api import MoEDeployment, Reason
from moe_operator.errors import StaleBasisError
from moe_operator.finding import Finding
from moe_operator.kube.errors import NameConflictError, SecretError
from moe_operator.kube.secrets import KeyHashes, Secrets
from moe_operator.runtimes.credential import Check
from moe_operator.runtimes.directory import Directories
from moe_operator.runtimes.errors import RayAuthError, RayError
from moe_operator.runtimes.port import Effect, Outcome, RuntimeState, core_name
from moe_operator.runtimes.ray_cluster.basis import Basis
from moe_operator.runtimes.ray_cluster.orphans import Orphans
from moe_operator.runtimes.ray_cluster.problems import in_the_way
from moe_operator.runtimes.ray_cluster.render import change_of
from moe_operator.runtimes.ray_cluster.serve_rest.cluster import ServeCluster, ServeClusters, WriteOutcome
from moe_operator.runtimes.ray_cluster.state import is_certainly_empty, runtime_state
from moe_operator.runtimes.ray_cluster.token import RayToken
from moe_operator.runtimes.serve.foreign import ForeignWrites
from moe_operator.runtimes.serve.repeats import Repeats
from moe_operator.text import some

_NAMED = 16
"""Applications that a line of the log names."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RayClusters:
    """All Ray clusters that deployments name. ``clock`` is monotonic."""

    secrets: Secrets
    directories: Directories
    clusters: ServeClusters
    clock: Callable[[], float] = time.monotonic
    orphans: Orphans = field(default_factory=Orphans)

    def open(self, moe: MoEDeployment) -> RayCluster:
        return RayCluster(self, moe.ray_cluster.dashboard_url, RayToken(self.secrets))

    def orphaned(self, uids: Callable[[str], Collection[str] | None]) -> int:
        return self.orphans.count(uids)


@dataclass(slots=True)
class RayCluster:
    """Where one deployment runs; made by ``RayClusters``."""

    _all: RayClusters
    where: str
    _token: RayToken
    _foreign: ForeignWrites = field(default_factory=ForeignWrites)
    _repeats: Repeats = field(default_factory=Repeats)
    _conflict: Conflict | None = None
    _absent_since: float | None = None

    async def observe(self, moe: MoEDeployment) -> RuntimeState:
        state = await self._observe_serve(moe)
        return await self._with_report(moe, state) if _has_a_directory(moe, state) else state

    async def _observe_serve(self, moe: MoEDeployment) -> RuntimeState:
        foreign = self._foreign_writer()
        try:
            credential = await self._token.credential(moe)
            serve = await self._cluster.observe(credential)
        except SecretError as error:
            return RuntimeState(unasked=Finding(error.reason, str(error)), foreign_writer=foreign)
        except RayError as error:
            if isinstance(error, RayAuthError):
                self._all.secrets.token_refused(moe)
            self._absent_since = None
            return RuntimeState(unreachable=Finding(error.reason, str(error)), foreign_writer=foreign)
        self._token.worked = credential
        self._all.orphans.note(self.where, serve)
        core = core_name(moe)
        state = runtime_state(
            serve,
            moe,
            absent_seconds=self._absent_seconds(serve),
            remembered=self._cluster.remembered(core),
            edited=self._cluster.edited(core, serve).keys(),
        )
        nodes = await self._cluster.nodes(credential) if moe.asks_of_nodes else None
        return replace(state, foreign_writer=foreign, nodes=nodes)

    async def _with_report(self, moe: MoEDeployment, state: RuntimeState) -> RuntimeState:
        url, route = moe.ray_cluster.serve_url, _route(moe, state)
        heard = await self._all.directories.ask(moe, self._all.secrets, url, route, _named(moe))
        return replace(state, report=heard.report, report_problem=heard.problem)

    @asynccontextmanager
    async def statistics(self, moe: MoEDeployment, state: RuntimeState) -> AsyncIterator[bytearray]:
        key = await self._all.secrets.internal_key(moe)
        asked = self._all.directories.statistics.read(moe.ray_cluster.serve_url, _route(moe, state), key, _named(moe))
        async with asked as packed:
            yield packed

    async def apply(
        self, moe: MoEDeployment, desired: Desired | None, basis: RuntimeState, without: Collection[str] = ()
    ) -> Outcome:
        if not isinstance(basis.basis, Basis):
            raise TypeError("nothing can be decided from a state in which it is not known what runs")
        change = change_of(moe, desired, without)
        try:
            if await self._is_held_back(change):
                return Outcome(Effect.HELD_BACK, None, self._foreign_writer())
            written = await self._cluster.apply(self._token.worked, change, basis.basis, self._same_keys(moe, desired))
        except StaleBasisError as error:
            return Outcome(Effect.STALE, Finding(Reason.RAY_UNREACHABLE, str(error)), self._foreign_writer())
        except (RayError, SecretError, NameConflictError) as error:
            return Outcome(Effect.REFUSED, Finding(error.reason, str(error)), self._foreign_writer())
        return self._outcome(moe, change, written)

    async def _is_held_back(self, change: Change) -> bool:
        """Whether it was written again and again lately, and is not there."""
        if self._repeats.wait(change, self._all.clock()) <= 0.0:
            return False
        there = owned(await self._cluster.observe(self._token.worked), change.core)
        return any(each["name"] not in there or there[each["name"]].config != each for each in change.applications)

    def _outcome(self, moe: MoEDeployment, change: Change, written: WriteOutcome) -> Outcome:
        if written.written:
            self._repeats.written(change, self._all.clock())
            logger.info("Serve at %s was told to run %s", self.where, _names(change))
        else:
            self._repeats.kept()
        self._foreign.note(written.lost, written.edited, self._all.clock())
        foreign = self._foreign_writer()
        before, self._conflict = self._conflict, written.conflict
        if written.conflict:
            if written.conflict != before:
                logger.warning("not written, since Serve application %r is in the way", written.conflict.owner)
            return Outcome(Effect.IN_THE_WAY, in_the_way(moe, written.conflict), foreign)
        return Outcome(Effect.WRITTEN if written.written else Effect.EQUAL, None, foreign)

    async def remove(self, moe: MoEDeployment) -> Finding | None:
        core = core_name(moe)
        try:
            credential = await self._token.credential_to_remove(moe)
            await self._cluster.apply(credential, Change(core, ()))
            serve = await self._cluster.observe(credential)
        except (RayError, SecretError, NameConflictError) as error:
            return Finding(error.reason, str(error))
        self._all.orphans.note(self.where, serve)
        return self._what_is_left(serve, core)

    def _what_is_left(self, serve: ServeState, core: str) -> Finding | None:
        if is_certainly_empty(serve, core, self._absent_seconds(serve)):
            return None
        if not serve.controller:
            return Finding(Reason.DELETING, f"Ray at {self.where} runs no Serve; looking once more")
        return Finding(Reason.DELETING, f"Serve is stopping {', '.join(sorted(owned(serve, core)))}")

    @property
    def _cluster(self) -> ServeCluster:
        """Asked for each time: what nobody asks for is forgotten."""
        return self._all.clusters.at(self.where)

    def _absent_seconds(self, serve: ServeState) -> float:
        """For how long Ray has said that it runs no Serve at all."""
        now = self._all.clock()
        if serve.controller:
            self._absent_since = None
            return 0.0
        self._absent_since = now if self._absent_since is None else self._absent_since
        return now - self._absent_since

    def _foreign_writer(self) -> Finding | None:
        return self._foreign.told(self.where, self._all.clock(), self._repeats.often)

    def _same_keys(self, moe: MoEDeployment, desired: Desired | None) -> Check:
        """Whether the keys whose hashes are to be written are still those of their Secrets."""

        async def check() -> None:
            if desired is None:
                return
            then = KeyHashes(desired.api.internal_key_sha256 or "", desired.api.api_key_sha256)
            if await self._all.secrets.key_hashes(moe, fresh=True) != then:
                raise StaleBasisError(f"the API keys of {moe.key} are others by now")

        return check


def _has_a_directory(moe: MoEDeployment, state: RuntimeState) -> bool:
    """Whether there is one to ask: a deployment that goes to sleep has none any more. Where nothing is known of what
    runs, one that knew its model answers as long as it runs."""
    if not state.is_known:
        return moe.status.model is not None
    goes = moe.spec.experts.shards == 0 and not moe.spec.suspend
    return state.standing(core_name(moe)) is not None and not goes


def _route(moe: MoEDeployment, state: RuntimeState) -> str:
    core = state.standing(core_name(moe))
    return (core.route_prefix if core else None) or moe.route_prefix


def _named(moe: MoEDeployment) -> str:
    return f"spec.runtime.rayCluster.serveURL is {moe.ray_cluster.serve_url}"


def _names(change: Change) -> str:
    names = sorted(change.names)
    return some(names, _NAMED) if names else f"nothing of {change.core}"
