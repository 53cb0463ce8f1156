"""One MoEDeployment and a Reconciler, the times in the test's hand: Kubernetes in memory, a fake Ray behind HTTP."""

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from fake_kube import WRITTEN_BY_THE_OPERATOR, FakeKube
from fake_ray import FakeDirectory, FakeRay, told_placement
from moe_facts import FACTS

from moe_operator.errors import StaleBasisError
from moe_operator.kube.events import EventRecorder
from moe_operator.kube.resources import EXPERT_PLACEMENTS, MOE_DEPLOYMENTS
from moe_operator.kube.secrets import Secrets
from moe_operator.placements.keeper import PlacementKeeper
from moe_operator.placements.store import PlacementStore
from moe_operator.rebalance.looks import Looks
from moe_operator.reconcile.autoscaling import Autoscaling
from moe_operator.reconcile.cleanup import Cleanup
from moe_operator.reconcile.decider import Decider
from moe_operator.reconcile.observe import Observer
from moe_operator.reconcile.rebalancing import Rebalancing
from moe_operator.reconcile.reconciler import Reconciler, Result
from moe_operator.reconcile.sleep import Sleep
from moe_operator.runtimes.directory import Directories
from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.port import Runtimes
from moe_operator.runtimes.ray_cluster.runtime import RayClusters
from moe_operator.runtimes.ray_cluster.serve_rest.cluster import ServeClusters
from moe_operator.telemetry.metrics import Metrics
from moe_placement import Placement

TODAY = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
INTERNAL_KEY = "tiny-moe-internal"


@dataclass
class Bench:
    """One object, ``team/tiny``, and what works it. ``now`` is the monotonic clock, in seconds."""

    http: HttpClient
    ray: FakeRay
    kube: FakeKube = field(default_factory=FakeKube)
    now: float = 1000.0
    metrics: Metrics = field(default_factory=Metrics)
    directory: FakeDirectory = field(default_factory=lambda: FakeDirectory(FACTS))
    worker: Any = None

    @property
    def today(self) -> datetime:
        """What the calendar says."""
        return TODAY + timedelta(seconds=self.now)

    def __post_init__(self) -> None:
        self.ray.report = self.directory
        self.restart()

    def restart(self) -> None:
        """Another operator process takes over."""
        secrets = Secrets(self.kube, lambda: self.now)
        self.runtimes = self.open_runtimes(secrets)
        observer = Observer(secrets, self.runtimes, lambda: self.now, lambda: self.today)
        events = EventRecorder(self.kube, "test")
        cleanup = Cleanup(self.kube, observer, events, self.metrics, deadline=300.0)
        self.placements = PlacementStore(lambda: self.now)
        keeper = PlacementKeeper(
            self.kube,
            events,
            self.placements,
            secrets.internal_key,
            lambda: self.now,
            rolled_back=self.metrics.rolled_back,
        )
        self.looks = Looks(self.worker, clock=lambda: self.now)  # type: ignore[arg-type]
        rebalancing = Rebalancing(keeper, events, self.looks, self.metrics)
        sleep = Sleep(self.kube, events)
        decider = Decider()
        scaling = Autoscaling(self.kube, events, self.metrics, decider, lambda: self.now)
        self.reconciler = Reconciler(self.kube, observer, events, cleanup, keeper, rebalancing, scaling, sleep, decider)

    def open_runtimes(self, secrets: Secrets) -> Runtimes:
        return RayClusters(secrets, Directories(self.http), ServeClusters(self.http, lambda: None), lambda: self.now)

    def apply(self, **spec: Any) -> None:
        self.kube.put(
            MOE_DEPLOYMENTS,
            {
                "apiVersion": "moe-operator.io/v1alpha1",
                "kind": "MoEDeployment",
                "metadata": {"name": "tiny", "namespace": "team", "generation": 1},
                "spec": self.ray.spec(**spec),
            },
        )

    def change(self, **spec: Any) -> None:
        live = self.kube.moe()
        changed = {**live["spec"], **spec}
        metadata = {**live["metadata"], "generation": live["metadata"]["generation"] + (changed != live["spec"])}
        self.kube.put(MOE_DEPLOYMENTS, {**live, "metadata": metadata, "spec": changed})

    def pause_rebalance(self, paused: bool = True) -> None:
        """Somebody sets the annotation, or takes it away."""
        self.annotate({"moe-operator.io/pause-rebalance": "true"} if paused else {})

    def annotate(self, annotations: dict[str, str]) -> None:
        """Somebody sets these annotations, and takes all others away."""
        live = self.kube.moe()
        self.kube.put(MOE_DEPLOYMENTS, {**live, "metadata": {**live["metadata"], "annotations": annotations}})

    def delete(self) -> None:
        live = self.kube.moe()
        asked = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
        self.kube.put(MOE_DEPLOYMENTS, {**live, "metadata": {**live["metadata"], **asked}})

    async def work(self, passes: int = 1, seconds: float = 0.0) -> Result:
        """Some passes, ``seconds`` after one another; an intent that is overtaken is made anew in the next."""
        result = Result()
        for _ in range(passes):
            self.now += seconds
            self.placements.replace_all(self.kube.listing(EXPERT_PLACEMENTS))
            with contextlib.suppress(StaleBasisError):
                result = await self.reconciler.reconcile("team/tiny")
        return result

    async def ready(self) -> None:
        await self.work(5)
        assert self.condition("Ready") == "True Available"

    def condition(self, kind: str) -> str:
        found = self._condition(kind)
        return f"{found['status']} {found['reason']}"

    def message(self, kind: str) -> str:
        """Of a condition."""
        return str(self._condition(kind)["message"])

    def _condition(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = next(c for c in self.kube.moe()["status"]["conditions"] if c["type"] == kind)
        return found

    def placement(self, revision: int) -> dict[str, Any]:
        """An ExpertPlacement of ``tiny``."""
        return self.kube.objects[EXPERT_PLACEMENTS.plural, "team", f"tiny-r{revision}"]

    def judged(self, revision: int, kind: str) -> str:
        """A condition of that ExpertPlacement, as ``status reason``."""
        found = next(c for c in self.placement(revision)["status"]["conditions"] if c["type"] == kind)
        return f"{found['status']} {found['reason']}"

    def runs(self) -> tuple[int, Placement]:
        """What the directory was told last."""
        return told_placement(self.ray.configs[self.core])

    def phases(self) -> dict[int, str]:
        """Of all ExpertPlacements, by revision."""
        found = [body for (plural, _, _), body in self.kube.objects.items() if plural == EXPERT_PLACEMENTS.plural]
        phases = {each["spec"]["content"]["revision"]: each.get("status", {}).get("phase", "") for each in found}
        return dict(sorted(phases.items()))

    def write(self, body: dict[str, Any]) -> None:
        """Somebody makes or changes an ExpertPlacement."""
        self.kube.put(EXPERT_PLACEMENTS, body)

    def decide(self, revision: int, decision: str) -> None:
        """Somebody decides on one."""
        live = self.placement(revision)
        metadata = {**live["metadata"], "generation": live["metadata"].get("generation", 1) + 1}
        if "managedFields" in metadata:
            content = {**WRITTEN_BY_THE_OPERATOR, "fieldsV1": {"f:spec": {"f:content": {}}}}
            metadata["managedFields"] = [content]
        self.write({**live, "metadata": metadata, "spec": {**live["spec"], "decision": decision}})

    def finalizers(self) -> list[str]:
        return self.kube.moe()["metadata"].get("finalizers", [])

    @property
    def core(self) -> str:
        return next(name for name in self.ray.configs if "experts" not in name)

    def blink(self, looks: int) -> None:
        """Ray says in so many answers that it runs no Serve, as when it does not find its controller for a moment."""

        async def answer(request: web.Request) -> web.StreamResponse:
            nonlocal looks
            if request.method != "GET" or looks == 0:
                self.ray.override = None
                return await self.ray.handle(request)
            looks -= 1
            return web.json_response({"applications": {}})

        self.ray.override = answer


async def broken(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500)
