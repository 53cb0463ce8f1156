"""What a RayService tells of one deployment, in the port's words. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from moe_contract.applications import shard_application_name
from moe_contract.serve import state as serve_state
from moe_contract.serve.merge import Config, belongs
from moe_contract.serve.state import is_ours, route_of
from moe_operator.api import MoEDeployment, Reason
from moe_operator.api.kube_ray import UpgradeStrategy
from moe_operator.finding import Finding
from moe_operator.kube.api import Json
from moe_operator.kube.store import goes
from moe_operator.release import serving_requirement
from moe_operator.runtimes.kube_ray.clusters import Clusters, of_pods
from moe_operator.runtimes.kube_ray.evictions import Untold, told_of
from moe_operator.runtimes.kube_ray.manifests.names import LABEL_CLUSTER, SERVE_CONFIG
from moe_operator.runtimes.port import Application, ApplicationPhase, RuntimeState, core_name
from moe_operator.runtimes.serve.applications import application
from moe_operator.runtimes.serve.problems import Whereabouts
from moe_operator.runtimes.serve.told import read_told

UNSEEN_SECONDS = 20.0
"""After which a RayService that KubeRay has not looked at is told of."""


@dataclass(frozen=True, slots=True)
class Basis:
    """A RayService and its clusters; ``untold``: None while the directory tells which shards hold what."""

    uid: str = ""
    clusters: Clusters = field(default_factory=Clusters)
    untold: Untold | None = None


def configs_of(live: Json | None) -> dict[str, Config]:
    """The configurations of our applications that a RayService has for Serve, by name."""
    return read_configs((live or {}).get("spec", {}).get(SERVE_CONFIG))


def read_configs(text: Any) -> dict[str, Config]:
    """Those of our applications in a configuration for Serve, by name; none where somebody wrote what is no such
    text."""
    try:
        read = json.loads(text)
        return {each["name"]: each for each in read["applications"] if is_ours(each)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def runtime_state(
    moe: MoEDeployment,
    live: Json | None,
    clusters: Clusters,
    waiting: Finding | None,
    configs: Mapping[str, Config],
    running: Json | None = None,
    untold: Untold | None = None,
    *,
    now: datetime,
) -> RuntimeState:
    """What ``live`` tells. ``waiting``: why pods do not come up, of the new cluster in an upgrade. ``configs``: what it
    has for Serve, and where somebody else has changed or removed that since, what this process wrote last.
    ``running``: the RayCluster that answers; ``untold``: see ``Basis``."""
    where = f"RayService {moe.key}"
    if live is None:
        remembered = {name: read_told(config) for name, config in configs.items()}
        answers = Finding(Reason.REACHABLE, f"KubeRay is installed, and there is no {where}")
        return RuntimeState(answers=answers, told=remembered, nothing_is_left=True, basis=Basis())
    leaving = goes(live)
    configs = {} if leaving else configs
    applications = _applications(moe, live, configs, clusters)
    if leaving:
        applications = {name: replace(each, leaving=True) for name, each in applications.items()} or {
            core_name(moe): Application(core_name(moe), ApplicationPhase.STARTING, leaving=True)
        }
    problem = _not_worked(live, where, now) or _refused(live, where)
    return RuntimeState(
        answers=Finding(Reason.REACHABLE, f"KubeRay runs {where}"),
        applications=_with_problem(applications, problem),
        told={name: read_told(config) for name, config in configs.items()},
        pods_problem=None if clusters.being_replaced else waiting,
        upgrading=_upgrading(clusters, waiting),
        held=_held(live, running),
        pod_labels={LABEL_CLUSTER: clusters.answering} if clusters.answering else {},
        # The RayService is deleted for another one, and its pods with it.
        caches_go=True,
        evictions=told_of(moe, sum(name != core_name(moe) for name in configs), untold),
        basis=Basis(live["metadata"]["uid"], clusters, untold),
    )


def _applications(
    moe: MoEDeployment, live: Json, configs: Mapping[str, Config], clusters: Clusters
) -> dict[str, Application]:
    status = live.get("status") or {}
    which = "active" if clusters.active else "pending"
    found = (status.get(f"{which}ServiceStatus") or {}).get("applicationStatuses") or {}
    names = [*configs, *(name for name in found if name not in configs and belongs(name, core_name(moe)))]
    # While there are two clusters KubeRay tells nothing of the one that answers.
    unsaid = "RUNNING" if clusters.being_replaced else "NOT_STARTED"
    where = Whereabouts(
        f"the image {moe.kube_ray.image}", f"build one with {serving_requirement()} in it; it is tried again by itself"
    )
    return {name: application(_of_serve(name, found.get(name), configs.get(name), unsaid), where) for name in names}


def with_moved(
    moe: MoEDeployment, applications: Mapping[str, Application], moved: Collection[int]
) -> dict[str, Application]:
    """With those of the shards named marked."""
    names = {shard_name(moe, index) for index in moved}
    return {name: replace(each, moved=True) if name in names else each for name, each in applications.items()}


def shard_name(moe: MoEDeployment, index: int) -> str:
    """Name of the application of a shard."""
    return shard_application_name(core_name(moe), index)


def _of_serve(name: str, found: Any, config: Config | None, unsaid: str) -> serve_state.Application:
    told = found if isinstance(found, Mapping) else {}
    deployments = told.get("serveDeploymentStatuses") or {}
    problems = {key: str(each["message"]) for key, each in deployments.items() if each.get("message")}
    return serve_state.Application(
        name=name,
        status=str(told.get("status") or unsaid),
        message=str(told.get("message") or ""),
        config=config,
        route_prefix=route_of(config),
        problems=problems,
    )


def _with_problem(applications: dict[str, Application], problem: Finding | None) -> dict[str, Application]:
    """Told of the first that has not started: what keeps its pod from coming up keeps it."""
    starting = [each for each in applications.values() if each.phase is ApplicationPhase.STARTING and not each.leaving]
    if problem is None or not starting:
        return applications
    first = replace(starting[0], phase=ApplicationPhase.UNHEALTHY, problem=problem)
    return {**applications, first.name: first}


def _upgrading(clusters: Clusters, waiting: Finding | None) -> Finding | None:
    if not clusters.being_replaced:
        return None
    new = clusters.pending or clusters.active
    why = f"; {waiting.message}" if waiting else ""
    return Finding(
        Reason.UPGRADING,
        f"Ray cluster {new} is being started beside {clusters.answering}, which answers until the new one serves; it "
        f"takes as many pods once more, and API keys, model, shards and settings change once it is over; where the new "
        f"one cannot run, put spec.runtime.kubeRay and the resources right, which starts another{why}",
    )


def _held(live: Json, running: Json | None) -> Finding | None:
    """That what was written for pods is not what runs, and KubeRay is to leave it so."""
    if running is None or live["spec"].get("upgradeStrategy", {}).get("type") != UpgradeStrategy.NONE:
        return None
    if of_pods(live["spec"]["rayClusterConfig"]) == of_pods(running["spec"]):
        return None
    return Finding(
        Reason.UPGRADE_HELD,
        f"what was changed of image, resources, other fields of pods or the Ray cluster's token waits, since "
        f"spec.runtime.kubeRay.upgrade.strategy is None: Ray cluster {running['metadata']['name']} goes on as it was "
        f"until that is NewCluster",
    )


def _refused(live: Json, where: str) -> Finding | None:
    for condition in (live.get("status") or {}).get("conditions", []):
        if condition.get("type") == "Ready" and condition.get("reason") in ("ValidationFailed", "InitializingTimeout"):
            return Finding(Reason.KUBERAY_REFUSED, f"KubeRay does not run {where}: {condition.get('message')}")
    return None


def _not_worked(live: Json, where: str, now: datetime) -> Finding | None:
    status = live.get("status") or {}
    made = live["metadata"].get("creationTimestamp")
    if status.get("observedGeneration") or status.get("conditions") or not made:
        return None
    if (now - datetime.fromisoformat(made)).total_seconds() < UNSEEN_SECONDS:
        return None
    return Finding(
        Reason.KUBERAY_MISSING,
        f"nobody works {where}: see that KubeRay's operator runs, kubectl get pods -A -l "
        "'app.kubernetes.io/name in (kuberay, kuberay-operator)'",
    )
