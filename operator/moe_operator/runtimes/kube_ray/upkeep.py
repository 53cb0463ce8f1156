"""What is done about the pods of one deployment: how many may be evicted, which of them go, how many apis run in them,
and why some do not come up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from moe_contract.rendering import Desired
from moe_contract.report import DirectoryReport
from moe_contract.serve.merge import Config
from moe_operator.api import MoEDeployment
from moe_operator.api.names import COMPONENT_ATTENTION, COMPONENT_SHARD
from moe_operator.finding import Finding
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.errors import ConflictError, NotFoundError
from moe_operator.kube.resources import NETWORK_POLICIES, POD_DISRUPTION_BUDGETS, PODS, RAY_CLUSTERS, Resource
from moe_operator.runtimes.directory import Absence, Heard
from moe_operator.runtimes.kube_ray.clusters import Clusters
from moe_operator.runtimes.kube_ray.evictions import (
    Staying,
    Untold,
    noted,
    staying,
    tells_what_is_held,
    told_last,
    told_until,
)
from moe_operator.runtimes.kube_ray.leaving import Silence
from moe_operator.runtimes.kube_ray.manifests.budgets import build_budgets
from moe_operator.runtimes.kube_ray.manifests.network import Whereabouts, build_policies
from moe_operator.runtimes.kube_ray.manifests.ray_service import fewest_steps
from moe_operator.runtimes.kube_ray.objects import KubeRayObjects
from moe_operator.runtimes.kube_ray.pods import cluster_of, pods_problem
from moe_operator.runtimes.kube_ray.spread import TELLS_APIS, Needed, Together, least_apis, least_told
from moe_operator.runtimes.kube_ray.state import Basis

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Upkeep:
    """Of one deployment, ``where``. ``clock`` is monotonic, ``now`` is UTC.

    Attributes:
        _silence: of its pods on dead nodes.
        _together, _needed: of its apis in one pod.
    """

    where: str
    api: KubeApi
    objects: KubeRayObjects
    whereabouts: Whereabouts
    clock: Callable[[], float]
    now: Callable[[], datetime]
    _silence: Silence = field(default_factory=Silence)
    _together: Together = field(default_factory=Together)
    _needed: Needed = field(default_factory=Needed)

    def waiting(self, moe: MoEDeployment, clusters: Clusters, pods: list[Json]) -> Finding | None:
        """Why pods are not made, do not come up or do not stay: those of a former cluster are of no interest."""
        named = clusters.pending or clusters.newest
        known = [pod for pod in pods if named is None or cluster_of(pod) in (clusters.pending, clusters.active, None)]
        found = pods_problem(moe, known, self.objects.ray_cluster(moe, named) if named else None)
        return found or self.objects.end_of_a_pod(moe, named)

    def look(self, moe: MoEDeployment, cluster: str | None, heard: Heard) -> None:
        """Note which pods of the cluster that answers are silent, where that is known."""
        is_known = heard.report is not None or heard.absence is Absence.NOBODY
        there = self.objects.pods_of(moe, cluster)
        self._silence.look(there.silent(heard.report) if is_known else (), self.clock())

    def forget(self) -> None:
        """Nothing is known of its pods any more."""
        self._silence = Silence()

    def untold(self, moe: MoEDeployment, cluster: str | None, heard: Heard) -> Untold | None:
        """What is known while the directory does not tell which shards hold what; None while it does."""
        if cluster is None or tells_what_is_held(heard.report):
            return None
        there, now = self.objects.pods_of(moe, cluster), self.now()
        budget = self.objects.experts_budget(moe)
        last = told_last(budget, cluster, now)
        if last is None:
            last = told_until(budget, cluster, now, there.since(COMPONENT_SHARD, now, now).before)
        is_away = heard.absence is not None or heard.report is not None
        of_each = (there.since(component, last.since, now) for component in (COMPONENT_ATTENTION, COMPONENT_SHARD))
        return Untold(last, (now - last.since).total_seconds(), is_away, *of_each)

    def with_apis(
        self, moe: MoEDeployment, desired: Desired, then: Basis, report: DirectoryReport | None, told: Config | None
    ) -> Desired:
        """With as many apis as are to run at least, so that they are in more than one pod.

        Where it is not known where they run, as many stay as were told last, by ``told``, the configuration of the core
        application. A data plane that never tells keeps to the spec.
        """
        apis = self.objects.pods_of(moe, then.clusters.answering).apis(report)
        may_tell = report is None or report.contract >= TELLS_APIS
        needed = self._needed.look(moe, apis, self.clock())
        least = least_apis(moe, apis, least_told(told) if may_tell else None, needed)
        return replace(desired, api_scale=desired.api_scale.model_copy(update={"min_replicas": least}))

    def children(
        self, moe: MoEDeployment, shards: int, then: Basis, report: DirectoryReport | None
    ) -> Iterator[tuple[Resource, Json]]:
        """What lets others evict pods, and reach them, with so many shards."""
        cluster, untold = then.clusters.answering, then.untold
        last = noted(untold.last, cluster) if untold and cluster else None
        for budget in build_budgets(moe, self._staying(moe, shards, then, report), cluster, last):
            yield POD_DISRUPTION_BUDGETS, budget
        for policy in build_policies(moe, self.whereabouts):
            yield NETWORK_POLICIES, policy

    async def remove_pods(
        self, moe: MoEDeployment, desired: Desired, clusters: Clusters, report: DirectoryReport | None
    ) -> None:
        """Those whose nodes go away, once nothing is lost by it, and those that are dead."""
        silent = self._silence.lasting(self.clock())
        pods = self.objects.pods_of(moe, clusters.answering)
        for removal in pods.removals(report, desired.directory.revision, silent):
            metadata, grace = removal.pod["metadata"], 0 if removal.by_force else None
            namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
            try:
                await self.api.delete(PODS, namespace, name, uid, grace_seconds=grace)
            except (NotFoundError, ConflictError):
                continue  # it is gone, or another one by now
            logger.info("%s: pod %s is deleted: %s", self.where, name, removal.why)

    async def keep_pods(self, moe: MoEDeployment, cluster: str | None, shards: int) -> None:
        """Ray's autoscaler reads the bounds from the RayCluster, to which KubeRay does not pass them on."""
        live = self.objects.ray_cluster(moe, cluster) if cluster else None
        steps = fewest_steps(moe, live, shards) if live else []
        if live and steps:
            metadata = live["metadata"]
            try:
                await self.api.json_patch(RAY_CLUSTERS, metadata["namespace"], metadata["name"], steps)
            except NotFoundError:
                return

    def _staying(self, moe: MoEDeployment, shards: int, then: Basis, report: DirectoryReport | None) -> Staying:
        """Of the Ray cluster that answers, with so many shards."""
        pods, untold = self.objects.pods_of(moe, then.clusters.answering), then.untold
        serving, apis = pods.serving(report, untold is not None and untold.is_away), pods.apis(report)
        together = self._together.lasts(None if apis is None else apis.come_apart(moe), self.clock())
        drained = min(self._evictable(report), shards)
        whole = _is_whole(report) and not pods.loses_copies(report)
        return staying(moe, shards, drained, whole, serving, untold, together, pods.for_shards())

    def _evictable(self, report: DirectoryReport | None) -> int:
        """Shards that hold nothing, whose pods others may evict. Of nodes that are watched such pods are deleted here,
        and a budget that lets one go may be used for another that holds experts."""
        if report is None or self.objects.nodes.missing("") is None:
            return 0
        return sum(shard.wanted == 0 and shard.held == 0 for shard in report.shards)


def _is_whole(report: DirectoryReport | None) -> bool:
    """Whether it is known that every copy is in place."""
    if report is None or report.model is None or report.progress.copied < report.progress.total:
        return False
    return all(shard.held >= shard.wanted for shard in report.shards)
