"""One deployment that KubeRay runs: what the port asks, by objects of Kubernetes and the directory."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from moe_contract.applications import CORE_IMPORT_PATH
from moe_contract.rendering import Desired
from moe_contract.report import DirectoryReport
from moe_contract.serve.merge import Config
from moe_contract.serve.state import route_of
from moe_operator.api import MoEDeployment, Reason
from moe_operator.finding import Finding
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.children import apply_child, find_child
from moe_operator.kube.errors import NameConflictError, NotFoundError
from moe_operator.kube.resources import RAY_SERVICES
from moe_operator.kube.secrets import Secrets
from moe_operator.kube.store import goes
from moe_operator.runtimes.directory import Directories, Heard
from moe_operator.runtimes.kube_ray.activators import Activators
from moe_operator.runtimes.kube_ray.clusters import Clusters, clusters_of, head_url, serves
from moe_operator.runtimes.kube_ray.emptying import may_go
from moe_operator.runtimes.kube_ray.heads import Heads
from moe_operator.runtimes.kube_ray.leading import Leading
from moe_operator.runtimes.kube_ray.manifests.names import SERVE_CONFIG, TOKEN_KEY, token_secret_name
from moe_operator.runtimes.kube_ray.manifests.network import Whereabouts
from moe_operator.runtimes.kube_ray.manifests.ray_service import build_ray_service
from moe_operator.runtimes.kube_ray.manifests.serve_config import serve_config, with_options_of
from moe_operator.runtimes.kube_ray.manifests.service import selected_cluster
from moe_operator.runtimes.kube_ray.objects import KubeRayObjects
from moe_operator.runtimes.kube_ray.state import Basis, configs_of, read_configs, runtime_state, with_moved
from moe_operator.runtimes.kube_ray.succession import Succession
from moe_operator.runtimes.kube_ray.upkeep import Upkeep
from moe_operator.runtimes.port import Effect, Outcome, RuntimeState
from moe_operator.runtimes.serve.foreign import ForeignWrites
from moe_operator.runtimes.serve.repeats import Repeats

ANSWERED_SECONDS = 10.0
"""For which a pass waits until the watches have told what there is."""
_NOT_INSTALLED = Finding(
    Reason.KUBERAY_MISSING,
    "the kind RayService (ray.io/v1) is not installed: kubectl create -k "
    "'github.com/ray-project/kuberay/ray-operator/config/default?ref=v1.6.2'; it is looked for by itself",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KubeRays:
    """All deployments that KubeRay runs; ``activators``: those of the activator, where one is installed. ``clock`` is
    monotonic, ``now`` is UTC."""

    api: KubeApi
    secrets: Secrets
    directories: Directories
    objects: KubeRayObjects
    whereabouts: Whereabouts = field(default_factory=Whereabouts)
    activators: Activators | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def open(self, moe: MoEDeployment) -> KubeRayRuntime:
        where = f"RayService {moe.key}"
        leading = Leading(self.api, self.secrets, self.objects, self.activators)
        upkeep = Upkeep(where, self.api, self.objects, self.whereabouts, self.clock, self.now)
        return KubeRayRuntime(self, where, leading, upkeep)

    def orphaned(self, uids: Callable[[str], Collection[str] | None]) -> int:
        """None: what is made goes with its owner."""
        return 0


@dataclass(slots=True)
class KubeRayRuntime:
    """Where one deployment runs; made by ``KubeRays``.

    Attributes:
        _written: what this process had its RayService tell Serve last; None before that, and once it was removed.
        _absent: whether the API server said that there is no RayService, and the watch has told of none since.
        _switched: since when its Service leads nowhere, or to the activator, because it goes to sleep.
    """

    _all: KubeRays
    where: str
    _leading: Leading
    _upkeep: Upkeep
    _foreign: ForeignWrites = field(default_factory=ForeignWrites)
    _repeats: Repeats = field(default_factory=Repeats)
    _written: str | None = None
    _absent: bool = False
    _switched: float | None = None
    _succession: Succession = field(default_factory=Succession)

    async def observe(self, moe: MoEDeployment) -> RuntimeState:
        missing = await self._missing(moe)
        if missing:
            self._upkeep.forget()
            return RuntimeState(unreachable=missing, foreign_writer=self._foreign_writer())
        live = await self._live(moe)
        pods = self._all.objects.pods(moe)
        status = (live or {}).get("status") or {}
        clusters = clusters_of(status, selected_cluster(self._all.objects.service(moe)), pods)
        overwritten = self._overwritten(live)
        configs = configs_of(live) if overwritten is None else overwritten
        heard = Heard()
        if _has_a_directory(moe, live):
            heard, clusters = await self._reported(clusters, self._heads(moe, configs))
        running = self._all.objects.ray_cluster(moe, clusters.answering) if clusters.answering else None
        waiting = self._upkeep.waiting(moe, clusters, pods)
        untold = self._upkeep.untold(moe, clusters.answering, heard)
        seen = runtime_state(moe, live, clusters, waiting, configs, running, untold, now=self._all.now())
        self._upkeep.look(moe, clusters.answering, heard)
        there = self._all.objects.pods_of(moe, clusters.answering)
        return replace(
            seen,
            answers=self._with_nodes(seen.answers),
            applications=with_moved(moe, seen.applications, there.moved(heard.report)),
            report=heard.report,
            report_problem=heard.problem,
            foreign_writer=self._foreign_writer(),
            holds_requests=self._all.activators is not None,
            not_woken=await self._leading.not_woken(moe),
        )

    def _with_nodes(self, answers: Finding | None) -> Finding | None:
        unseen = self._all.objects.nodes.missing("")
        if answers is None or unseen is None:
            return answers
        said = f"{answers.message}; nodes are not watched, so that none is drained by itself: {unseen}"
        return Finding(answers.reason, said)

    async def _reported(self, clusters: Clusters, heads: Heads) -> tuple[Heard, Clusters]:
        """With the report of the cluster that answers; and once a newer one serves, that is the one."""
        newest = clusters.newest
        if newest and clusters.answering not in (None, newest) and clusters.pending is None:
            newer = await heads.report(newest)
            if serves(newer.report):
                logger.info("%s: requests go to Ray cluster %s from now on", self.where, newest)
                return newer, replace(clusters, answering=newest)
        if clusters.answering is None:
            return Heard(), clusters
        return await heads.report(clusters.answering), clusters

    @asynccontextmanager
    async def statistics(self, moe: MoEDeployment, state: RuntimeState) -> AsyncIterator[bytearray]:
        cluster = state.basis.clusters.answering if isinstance(state.basis, Basis) else None
        heads = self._heads(moe, configs_of(await self._live(moe)))
        async with self._all.directories.statistics.read(*await heads.directory(cluster)) as packed:
            yield packed

    def _heads(self, moe: MoEDeployment, configs: Mapping[str, Config]) -> Heads:
        """``configs``: what runs."""
        directories, pods = self._all.directories, self._all.objects.pods(moe)
        return Heads(directories, self._all.secrets, moe, pods, _route(moe, configs))

    async def apply(
        self, moe: MoEDeployment, desired: Desired | None, basis: RuntimeState, without: Collection[str] = ()
    ) -> Outcome:
        then = basis.basis
        if not isinstance(then, Basis):
            raise TypeError("nothing can be decided from a state in which it is not known what runs")
        missing = await self._missing(moe)
        if missing:
            return Outcome(Effect.REFUSED, missing)
        live = await self._live(moe)
        if _is_stale(then, live):
            return Outcome(Effect.STALE, Finding(Reason.KUBERAY_REFUSED, f"{self.where} is another one by now"))
        if desired is None or (live and goes(live)):
            try:
                if self._leading.may_be_held(moe) or (live and _sleeps(moe)):
                    await self._leading.lead(moe, None)  # first, so that what comes meanwhile is held
            except NameConflictError as error:
                return Outcome(Effect.IN_THE_WAY, Finding(error.reason, str(error)), self._foreign_writer())
            if live and not goes(live) and _sleeps(moe) and not await self._is_empty(moe, live, then.clusters):
                return Outcome(Effect.HELD_BACK, None, self._foreign_writer())
            return await self._delete(live)
        self._switched = None
        desired = self._upkeep.with_apis(moe, desired, then, basis.report, self._told(desired, basis.report, live))
        config = serve_config(desired, without)
        if live and then.clusters.being_replaced:
            # KubeRay would tell it to the new cluster alone.
            config = with_options_of(self._written or live["spec"][SERVE_CONFIG], config)
        try:
            token = await self._all.secrets.cluster_token(moe, token_secret_name(moe.metadata.name), TOKEN_KEY)
            led_to = self._leading.led_to(moe, then.clusters, basis.report)
            former = selected_cluster(self._all.objects.service(moe))
            await self._succession.tell(self._heads(moe, configs_of(live)), former, led_to, basis.report)
            await self._leading.lead(moe, led_to)
            for resource, manifest in self._upkeep.children(moe, len(desired.directory.shards), then, basis.report):
                await apply_child(self._all.api, moe, resource, manifest)
            shards = max(moe.spec.experts.shards, len(desired.directory.shards))
            wanted = build_ray_service(moe, config, shards, token)
            if self._repeats.wait(wanted, self._all.clock()) > 0.0:
                return Outcome(Effect.HELD_BACK, None, self._foreign_writer())
            applied = await apply_child(self._all.api, moe, RAY_SERVICES, wanted)
        except NameConflictError as error:
            return Outcome(Effect.IN_THE_WAY, Finding(error.reason, str(error)), self._foreign_writer())
        except NotFoundError:
            return Outcome(Effect.REFUSED, _NOT_INSTALLED)
        self._written, self._absent = config, False
        if not then.clusters.being_replaced:
            await self._upkeep.keep_pods(moe, then.clusters.newest, shards)
        await self._upkeep.remove_pods(moe, desired, then.clusters, basis.report)
        equal = live is not None and _version(live) == _version(applied)
        if equal:
            self._repeats.kept()
        else:
            self._repeats.written(wanted, self._all.clock())
        return Outcome(Effect.EQUAL if equal else Effect.WRITTEN, None, self._foreign_writer())

    def _told(self, desired: Desired, report: DirectoryReport | None, live: Json | None) -> Config | None:
        """What Serve was told last of the core application: by this process, where it told any, for others may have
        written there since."""
        configs = read_configs(self._written) if self._written or report is None else configs_of(live)
        return configs.get(desired.core)

    async def _is_empty(self, moe: MoEDeployment, live: Json, clusters: Clusters) -> bool:
        """Whether nobody's request is cut when it is taken away: it came between the look by which the deployment was
        found idle, or was scaled to 0, and the switch of its Service."""
        self._switched = self._all.clock() if self._switched is None else self._switched
        pods, seconds = self._all.objects.pods(moe), self._all.clock() - self._switched
        if clusters.answering is None or head_url(clusters.answering, pods) is None:
            return True
        heard = await self._heads(moe, configs_of(live)).report(clusters.answering)
        return may_go(heard.report, seconds)

    async def _delete(self, live: Json | None) -> Outcome:
        self._written = self._switched = None
        if live is None or goes(live):
            return Outcome(Effect.EQUAL)
        await self._ask_to_delete(live)
        return Outcome(Effect.WRITTEN)

    async def remove(self, moe: MoEDeployment) -> Finding | None:
        missing = await self._missing(moe)
        if missing:
            return None if missing is _NOT_INSTALLED else missing
        self._absent, self._written = False, None
        live = await self._live(moe)
        if live is None:
            return None
        if not goes(live) and not await self._ask_to_delete(live):
            return None
        return Finding(Reason.DELETING, f"{self.where} is being deleted: KubeRay removes its pods")

    async def _ask_to_delete(self, live: Json) -> bool:
        """Whether it was there."""
        metadata = live["metadata"]
        try:
            await self._all.api.delete(RAY_SERVICES, metadata["namespace"], metadata["name"], metadata["uid"])
        except NotFoundError:
            return False
        logger.info("%s is deleted", self.where)
        return True

    async def _missing(self, moe: MoEDeployment) -> Finding | None:
        """Why it is not known what there is."""
        namespace = moe.metadata.namespace
        await self._all.objects.answered(namespace, ANSWERED_SECONDS)
        if self._all.objects.ray_services.absent:
            return _NOT_INSTALLED
        for kind in self._all.objects.kinds.values():
            if why := kind.missing(namespace):
                return Finding(Reason.KUBERNETES_REFUSED, f"{kind.resource.plural} cannot be watched: {why}")
        return None

    async def _live(self, moe: MoEDeployment) -> Json | None:
        """The RayService; None if there is none, or it is somebody else's.

        One that the watch does not know is asked for once: whoever takes its labels off hides it from the watch.
        """
        if self._all.objects.ray_services.objects.get(moe.key) is None and self._absent:
            return None
        try:
            live = await find_child(self._all.api, moe, RAY_SERVICES, moe.metadata.name)
        except NameConflictError:
            return None  # told by the apply
        self._absent = live is None
        return live

    def _overwritten(self, live: Json | None) -> Mapping[str, Config] | None:
        """What was written last, where it is not there any more."""
        if self._written is None or (live and live["spec"].get(SERVE_CONFIG) == self._written):
            return None
        if live is None:
            self._foreign.note([self.where], {}, self._all.clock())
        elif not goes(live):
            self._foreign.note([], {self.where: f"spec.{SERVE_CONFIG}"}, self._all.clock())
        return read_configs(self._written)

    def _foreign_writer(self) -> Finding | None:
        return self._foreign.told("the API server", self._all.clock(), self._repeats.often)


def _is_stale(then: Basis, live: Json | None) -> bool:
    """Whether there is another RayService by now, or KubeRay has begun to replace its cluster."""
    if live is None:
        return bool(then.uid)
    status = live.get("status") or {}
    now, before = clusters_of(status, None, ()), then.clusters
    return live["metadata"]["uid"] != then.uid or (now.active, now.pending) != (before.active, before.pending)


def _has_a_directory(moe: MoEDeployment, live: Json | None) -> bool:
    """Whether there is one to ask: a deployment that goes to sleep has none any more."""
    return live is not None and not goes(live) and (not _sleeps(moe) or moe.spec.suspend)


def _sleeps(moe: MoEDeployment) -> bool:
    """Whether nothing of it shall run."""
    return moe.spec.experts.shards == 0


def _route(moe: MoEDeployment, configs: Mapping[str, Config]) -> str:
    """Of what runs."""
    core = next((each for each in configs.values() if each.get("import_path") == CORE_IMPORT_PATH), None)
    return route_of(core) or moe.route_prefix


def _version(live: Json) -> str:
    return str(live["metadata"]["resourceVersion"])
