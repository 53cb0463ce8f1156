"""KubeRay as it is seen from outside: it starts clusters, submits configurations, and tells of both in the status.

A fake that injects faults; what KubeRay itself does is tested on a real node.
"""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from bench import Bench
from fake_kube import FakeKube
from fake_ray import FakeRay, serving
from kube_ray_objects import IMAGE

from moe_operator.api.names import FIELD_MANAGER, LABEL_COMPONENT, LABEL_DEPLOYMENT, LABEL_MANAGED_BY
from moe_operator.kube.api import Json, Listing
from moe_operator.kube.resources import NODES, PODS, RAY_CLUSTERS, RAY_SERVICES, SERVICES, Resource
from moe_operator.kube.secrets import Secrets
from moe_operator.kube.store import ObjectStore
from moe_operator.kube.stored import StoredKube
from moe_operator.runtimes.directory import Directories
from moe_operator.runtimes.kube_ray.activators import Activators
from moe_operator.runtimes.kube_ray.objects import KubeRayObjects
from moe_operator.runtimes.kube_ray.runtime import KubeRays
from moe_operator.runtimes.port import Runtimes

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@dataclass
class FakeKubeRay:
    """Works RayService ``team/tiny``.

    Attributes:
        rays: what runs on each cluster, by its number; each has an address of its own.
        holds: whether a new cluster never becomes ready.
        statuses: of applications, in place of RUNNING.
    """

    kube: FakeKube
    rays: list[FakeRay]
    holds: bool = False
    statuses: dict[str, tuple[str, str]] = field(default_factory=dict)
    started: int = 0
    _specs: dict[str, Json] = field(default_factory=dict)

    def step(self) -> None:
        """One reconcile of KubeRay's."""
        if not self.kube.exists(RAY_SERVICES, "tiny"):
            self._stop(keep=())
            return
        live = self.kube.objects[RAY_SERVICES.plural, "team", "tiny"]
        status = dict(live.get("status") or {})
        active, pending = (self._name(status, which) for which in ("active", "pending"))
        wanted = _without_counts(live["spec"]["rayClusterConfig"])
        upgrades = live["spec"]["upgradeStrategy"]["type"] != "None"
        if not (pending or active) or (upgrades and not pending and self._specs.get(active or "") != wanted):
            pending = self._start(wanted)
        elif pending and not self.holds:
            active, pending = pending, None
        self._submit(live, pending or active or "")
        told = pending or active
        self.kube.put(RAY_SERVICES, {**live, "status": {
            "observedGeneration": 1,
            "activeServiceStatus": self._told(live, active, told),
            "pendingServiceStatus": self._told(live, pending, told),
        }})  # fmt: skip

    def stop_former(self) -> None:
        """The deletion delay is over."""
        live = self.kube.objects[RAY_SERVICES.plural, "team", "tiny"]
        self._stop(keep=[name for which in ("active", "pending") if (name := self._name(live["status"], which))])

    def ray_of(self, cluster: str) -> FakeRay:
        return self.rays[int(cluster.removeprefix("tiny-")) - 1]

    @staticmethod
    def _name(status: Json, which: str) -> str | None:
        return (status.get(f"{which}ServiceStatus") or {}).get("rayClusterName")

    def _start(self, spec: Json) -> str:
        self.started += 1
        cluster = f"tiny-{self.started}"
        self._specs[cluster] = spec
        labels = {
            LABEL_DEPLOYMENT: "tiny", LABEL_COMPONENT: "ray-head", LABEL_MANAGED_BY: FIELD_MANAGER,
            "ray.io/cluster": cluster,
        }  # fmt: skip
        metadata = {"name": f"{cluster}-head", "namespace": "team", "labels": labels}
        cluster_labels = {LABEL_DEPLOYMENT: "tiny", LABEL_MANAGED_BY: FIELD_MANAGER}
        made = {"name": cluster, "namespace": "team", "labels": cluster_labels}
        whole = self.kube.objects[RAY_SERVICES.plural, "team", "tiny"]["spec"]["rayClusterConfig"]
        self.kube.put(RAY_CLUSTERS, {"metadata": made, "spec": whole})
        self.kube.put(PODS, {"metadata": metadata, "status": {"podIP": ADDRESSES[self.started - 1]}})
        return cluster

    def _submit(self, live: Json, cluster: str) -> None:
        read = json.loads(live["spec"]["serveConfigV2"])["applications"]
        self.ray_of(cluster).configs = {each["name"]: each for each in read}

    def _told(self, live: Json, cluster: str | None, told: str | None) -> Json:
        if cluster is None:
            return {}
        if cluster != told:  # of the one that answers nothing is said beside a pending one
            return {"rayClusterName": cluster}
        names = [each["name"] for each in json.loads(live["spec"]["serveConfigV2"])["applications"]]
        found = {name: self.statuses.get(name, ("RUNNING", "")) for name in names}
        statuses = {name: {"status": word, "message": said} for name, (word, said) in found.items()}
        return {"rayClusterName": cluster, "applicationStatuses": statuses}

    def _stop(self, keep: Any) -> None:
        for key, pod in list(self.kube.objects.items()):
            if key[0] == PODS.plural and pod["metadata"]["labels"]["ray.io/cluster"] not in keep:
                del self.kube.objects[key]


def _without_counts(cluster: Json) -> Json:
    counts = ("replicas", "minReplicas", "maxReplicas")
    groups = [{k: v for k, v in group.items() if k not in counts} for group in cluster["workerGroupSpecs"]]
    return {**cluster, "workerGroupSpecs": groups}


@dataclass
class KubeRayBench(Bench):
    """A MoEDeployment ``team/tiny`` with ``runtime.kubeRay``; ``installed``: whether KubeRay's kinds are;
    ``sees_nodes``: whether nodes are watched."""

    installed: bool = True
    activators: Activators | None = None
    sees_nodes: bool = True
    kube_ray: FakeKubeRay = field(init=False)
    rays: list[FakeRay] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kube_ray = FakeKubeRay(self.kube, self.rays)
        super().__post_init__()
        for ray in self.rays:
            ray.report = self.directory

    def open_runtimes(self, secrets: Secrets) -> Runtimes:
        self.objects = KubeRayObjects(lambda: self.now)
        api = StoredKube(self.kube, ObjectStore(), self.objects.stores)
        return KubeRays(
            api, secrets, Directories(self.http), self.objects, activators=self.activators,
            clock=lambda: self.now, now=lambda: self.today,
        )  # fmt: skip

    def apply(self, kube_ray: Json | None = None, **spec: Any) -> None:
        super().apply(**{**spec, "runtime": None})
        self.change(runtime={"kubeRay": {"image": IMAGE, **(kube_ray or {})}})

    def watch(self) -> None:
        """What the watches tell."""
        for resource, kind in self.objects.kinds.items():
            if resource == RAY_SERVICES and not self.installed:
                kind.failed("it is not installed", absent=True)
                continue
            listing = self.kube.listing(resource)
            labelled = [each for each in listing.items if LABEL_DEPLOYMENT in each["metadata"].get("labels", {})]
            kind.objects.replace_all(Listing(labelled, listing.version))
            kind.listed()
        if self.sees_nodes:
            self.objects.nodes.objects.replace_all(self.kube.listing(NODES))
            self.objects.nodes.listed()

    async def work(self, passes: int = 1, seconds: float = 0.0, kube_ray: bool = True) -> Any:
        """``kube_ray``: whether KubeRay has its turn before each pass."""
        result = None
        for _ in range(passes):
            if kube_ray and self.installed:
                self.kube_ray.step()
            self.watch()
            result = await super().work(1, seconds)
        return result

    async def ready(self) -> None:
        await self.work(8, seconds=1.0)
        assert self.condition("Ready") == "True Available"

    def child(self, resource: Resource, name: str = "tiny") -> Json:
        return self.kube.objects[resource.plural, "team", name]

    @property
    def selected(self) -> str:
        """The Ray cluster that the Service of its API selects."""
        return str(self.child(SERVICES, "tiny-moe-api")["spec"]["selector"]["ray.io/cluster"])

    def edit(self, resource: Resource, name: str, **fields: Any) -> None:
        """Somebody else changes a child's spec."""
        live = self.child(resource, name)
        self.kube.put(resource, {**live, "spec": {**live["spec"], **fields}})

    @property
    def told(self) -> list[str]:
        """Applications that Serve is told, ``core`` and ``experts-<index>``."""
        told = json.loads(self.child(RAY_SERVICES)["spec"]["serveConfigV2"])["applications"]
        numbers = [each["name"].partition(".experts")[2] for each in told]
        return [f"experts{number}" if number else "core" for number in numbers]


@contextlib.asynccontextmanager
async def several_rays() -> AsyncIterator[tuple[list[FakeRay], int]]:
    """Fake heads behind one port, each with an address of its own."""
    async with contextlib.AsyncExitStack() as stack:
        rays, port = [], 0
        for address in ADDRESSES:
            ray = FakeRay()
            ray.url = await stack.enter_async_context(serving(ray.handle, address, port))
            port = int(ray.url.rpartition(":")[2])
            rays.append(ray)
        yield rays, port
