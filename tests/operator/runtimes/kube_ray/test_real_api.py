"""Children on a real API server with KubeRay's kinds, nobody working them; watched, written and repaired."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from data_plane import DataPlane
from kube_ray_objects import IMAGE, install_kube_ray_kinds, remove_kube_ray_kinds
from moe_facts import FACTS

from moe_contract.report import DirectoryReport, Progress, ShardReport
from moe_dev.kube import Kubectl
from moe_operator.api import MoEDeployment, Reason
from moe_operator.api.names import child_labels
from moe_operator.kube.child_watch import ChildWatch
from moe_operator.kube.client import KubeClient
from moe_operator.kube.resources import MOE_DEPLOYMENTS, PODS
from moe_operator.kube.secrets import Secrets
from moe_operator.kube.store import ObjectStore
from moe_operator.kube.stored import StoredKube
from moe_operator.runtimes.directory import Directories
from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.kube_ray.objects import KubeRayObjects
from moe_operator.runtimes.kube_ray.runtime import KubeRayRuntime, KubeRays
from moe_operator.runtimes.port import Effect, Outcome

pytestmark = pytest.mark.e2e

SOON = 30.0


@dataclass
class Live:
    """One MoEDeployment, and its runtime as the operator's account has it, from when the object is there."""

    kube: Kubectl
    client: KubeClient
    namespace: str
    objects: KubeRayObjects
    runtimes: KubeRays
    changed: list[str] = field(default_factory=list)
    opened: KubeRayRuntime | None = None

    @property
    def runtime(self) -> KubeRayRuntime:
        assert self.opened is not None
        return self.opened

    async def moe(self, **kube_ray: Any) -> MoEDeployment:
        spec = {
            "model": {"source": {"path": "models/tiny"}},
            "experts": {"shards": 2},
            "runtime": {"kubeRay": {"image": IMAGE, **kube_ray}},
        }
        manifest = {"apiVersion": "moe-operator.io/v1alpha1", "kind": "MoEDeployment", "metadata": {"name": "tiny"}}
        self.kube.apply({**manifest, "spec": spec}, namespace=self.namespace)
        moe = MoEDeployment.parse(await self.client.get(MOE_DEPLOYMENTS, self.namespace, "tiny"))
        self.opened = self.opened or self.runtimes.open(moe)
        return moe

    async def apply(self, moe: MoEDeployment, report: DirectoryReport | None = None) -> Outcome:
        """``report``: told by a directory, of which there is none."""
        plane = DataPlane(moe)
        plane.settle()
        state = replace(await self.runtime.observe(moe), report=report)
        return await self.runtime.apply(moe, plane.decide().desired, state)

    def status(self, kind: str, name: str, status: Any) -> None:
        where = [kind, name, "-n", self.namespace, "--subresource=status", "--type=merge"]
        self.kube.run("patch", *where, "-p", json.dumps(status))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return self.kube.get(kind, name, self.namespace) or {}

    def patch(self, kind: str, name: str, patch: Any, how: str = "merge") -> None:
        self.kube.run("patch", kind, name, "-n", self.namespace, f"--type={how}", "-p", json.dumps(patch))

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + SOON
        while not holds():
            if time.monotonic() > end:
                pytest.fail(f"waited {SOON:.0f} s for {what}")
            await asyncio.sleep(0.05)

    def versions(self) -> list[str]:
        """Of all children that the watches know."""
        known = [each for kind in self.objects.kinds.values() for each in kind.objects.all()]
        return [each["metadata"]["resourceVersion"] for each in known]


@pytest.fixture
async def live(kinds: Kubectl, client: KubeClient, namespace: str, http: HttpClient) -> AsyncIterator[Live]:
    objects, changed = KubeRayObjects(), []
    api = StoredKube(client, ObjectStore(), objects.stores)
    runtimes = KubeRays(api, Secrets(api), Directories(http), objects)
    watch = ChildWatch(client, (namespace,), (*objects.kinds.values(), objects.nodes), changed.append)
    running = asyncio.create_task(watch.run())
    yield Live(kinds, client, namespace, objects, runtimes, changed)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_was_written_is_not_written_again(live: Live) -> None:
    moe = await live.moe(apiFrom=[{"namespaceLabels": {}}], head={"gcsFaultTolerance": {"redisAddress": "redis:1"}})
    assert (await live.apply(moe)).effect is Effect.WRITTEN
    versions = live.versions()
    assert len(versions) == 7
    assert (await live.apply(moe)).effect is Effect.EQUAL
    assert live.versions() == versions


async def test_drift_comes_by_the_watch_and_is_repaired(live: Live) -> None:
    moe = await live.moe()
    await live.apply(moe)
    before = live.get("service", "tiny-moe-api")["spec"]["selector"]
    live.changed.clear()
    live.patch("service", "tiny-moe-api", {"spec": {"selector": {"app": "other"}}})
    await live.until("the change of a Service", lambda: f"{live.namespace}/tiny" in live.changed)
    await live.apply(moe)
    assert live.get("service", "tiny-moe-api")["spec"]["selector"] == before
    image = "/spec/rayClusterConfig/workerGroupSpecs/1/template/spec/containers/0/image"
    live.patch("rayservice", "tiny", [{"op": "replace", "path": image, "value": "other:1"}], how="json")
    await live.until("the change of the RayService", lambda: "other:1" in json.dumps(_service(live)))
    assert (await live.apply(moe)).effect is Effect.WRITTEN
    assert "other:1" not in json.dumps(live.get("rayservice", "tiny"))


async def test_a_field_that_is_dropped_from_the_spec_goes(live: Live) -> None:
    await live.apply(await live.moe(priorityClassName="high", upgrade={"strategy": "None"}))
    assert "priorityClassName" in json.dumps(live.get("rayservice", "tiny")["spec"])
    await live.apply(await live.moe())
    found = live.get("rayservice", "tiny")["spec"]
    assert "priorityClassName" not in json.dumps(found)
    assert found["upgradeStrategy"] == {"type": "NewCluster"}


async def test_a_foreign_ray_service_is_left_alone(live: Live) -> None:
    spec = {"rayClusterConfig": {"headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": []}}}}}
    foreign = {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": {"name": "tiny"}, "spec": spec}
    live.kube.apply(foreign, namespace=live.namespace)
    moe = await live.moe()
    outcome = await live.apply(moe)
    assert outcome.effect is Effect.IN_THE_WAY
    assert outcome.problem is not None
    assert outcome.problem.reason is Reason.NAME_CONFLICT
    assert "serveConfigV2" not in live.get("rayservice", "tiny")["spec"]
    assert await live.runtime.remove(moe) is None
    assert live.get("rayservice", "tiny")


async def test_the_bound_of_spare_pods_is_one_entry_of_the_running_cluster(live: Live) -> None:
    moe = await live.moe(expertWorkers={"spares": 1})
    await live.apply(moe)
    service = live.get("rayservice", "tiny")
    cluster = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "tiny-abcde", "labels": service["metadata"]["labels"]},
        "spec": service["spec"]["rayClusterConfig"],
    }
    cluster["spec"]["workerGroupSpecs"][1] |= {"minReplicas": 0, "replicas": 7}  # as the autoscaler has written
    live.kube.apply(cluster, namespace=live.namespace)
    active = {"status": {"activeServiceStatus": {"rayClusterName": "tiny-abcde"}}}
    live.status("rayservice", "tiny", active)
    await live.until("the cluster to be known", lambda: live.objects.ray_cluster(moe, "tiny-abcde") is not None)
    await live.until("the status to be known", lambda: "status" in _service(live))
    await live.apply(moe)
    group = live.get("raycluster", "tiny-abcde")["spec"]["workerGroupSpecs"][1]
    assert (group["minReplicas"], group["replicas"]) == (3, 7)


async def test_pods_go_with_their_nodes(live: Live) -> None:
    moe = await live.moe()
    await live.apply(moe)
    active = {"status": {"activeServiceStatus": {"rayClusterName": "tiny-abcde"}}}
    live.status("rayservice", "tiny", active)
    node = f"node-{live.namespace}"
    live.kube.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    try:
        labels = {**child_labels("tiny", "expert-shard"), "ray.io/cluster": "tiny-abcde"}
        containers = [{"name": "ray-worker", "image": IMAGE}]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shard", "labels": labels}}
        live.kube.apply({**pod, "spec": {"nodeName": node, "containers": containers}}, namespace=live.namespace)
        told = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}
        live.status("pod", "shard", {"status": told})
        known = lambda: live.objects.pods_of(moe, "tiny-abcde").pods  # noqa: E731
        await live.until("the pod's address", lambda: any(each["status"].get("podIP") for each in known()))
        live.changed.clear()
        live.kube.run("label", "node", node, "of=interest-to-nobody")
        live.kube.run("cordon", node)
        await live.until("the cordon", lambda: live.objects.pods_of(moe, "tiny-abcde").moved(_report()) == {0})
        assert live.changed == [f"{live.namespace}/tiny"]
        await live.apply(moe, _report())
        assert live.get("pod", "shard")["metadata"]["deletionTimestamp"]  # no kubelet ends it
        live.kube.run("delete", "node", node)
        await live.until("the node to be missed", lambda: _removed_by_force(live, moe))
        uid = live.get("pod", "shard")["metadata"]["uid"]
        await live.client.delete(PODS, live.namespace, "shard", uid, grace_seconds=0)
        assert live.get("pod", "shard") == {}
    finally:
        live.kube.run("delete", "node", node, "--ignore-not-found")


def _report(phase: Any = "Ready") -> DirectoryReport:
    """Of one shard that was emptied."""
    shard = ShardReport(index=0, phase=phase, host="10.0.0.1")
    done = Progress(copied=1, total=1, settled=True)
    return DirectoryReport(term=1, revision=1, epoch=1, model=FACTS, shards=(shard,), progress=done)


def _removed_by_force(live: Live, moe: MoEDeployment) -> bool:
    there = live.objects.pods_of(moe, "tiny-abcde")
    silent = [pod["metadata"]["uid"] for pod in there.silent(_report("Lost"))]
    removals = there.removals(_report("Lost"), 1, silent)
    return [each.by_force for each in removals] == [True]


async def test_it_is_removed(live: Live) -> None:
    moe = await live.moe()
    await live.apply(moe)
    finding = await live.runtime.remove(moe)
    assert finding is not None
    assert finding.reason is Reason.DELETING
    assert await live.runtime.remove(moe) is None
    assert live.get("rayservice", "tiny") == {}


async def test_the_kinds_may_go_and_come_while_the_operator_runs(live: Live) -> None:
    moe = await live.moe()
    await live.apply(moe)
    live.changed.clear()
    remove_kube_ray_kinds(live.kube)
    try:
        await live.until("the kind to be missed", lambda: live.objects.ray_services.absent)
        assert f"{live.namespace}/tiny" in live.changed
        unreachable = (await live.runtime.observe(moe)).unreachable
        assert unreachable is not None
        assert unreachable.reason is Reason.KUBERAY_MISSING
        assert await live.runtime.remove(moe) is None
    finally:
        install_kube_ray_kinds(live.kube)
    await live.until("the kind to be found", lambda: not live.objects.ray_services.absent)
    end = time.monotonic() + SOON
    while (problem := (await live.runtime.observe(moe)).unreachable) is not None:  # RayClusters come a moment later
        assert time.monotonic() < end, f"waited {SOON:.0f} s for no problem: {problem.message}"
        await asyncio.sleep(0.1)
    assert (await live.apply(moe)).effect is Effect.WRITTEN


def _service(live: Live) -> Any:
    return live.objects.ray_services.objects.get(f"{live.namespace}/tiny")
