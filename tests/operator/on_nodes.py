"""A deployment on KubeRay's pods, each on a node that a test cordons, removes or lets die."""

import json
from typing import Any

from aiohttp import web
from fake_kube_ray import KubeRayBench
from fake_ray import ANSWERS_AT

from moe_contract.applications import API
from moe_operator.api.names import child_labels
from moe_operator.api.status import TIME_FORMAT
from moe_operator.kube.resources import (
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    RAY_SERVICES,
    Resource,
)


class OnNodes:
    """Four shards in pods ``p0`` to ``p3``, each on a node of its own, ``n0`` to ``n3``."""

    def __init__(self, bench: KubeRayBench) -> None:
        self.bench = bench
        self.grace: dict[str, int | None] = {}
        delete = bench.kube.delete

        async def noted(
            resource: Resource, namespace: str, name: str, uid: str, version: str | None, grace: int | None
        ) -> None:
            if resource == PODS:
                self.grace[name] = grace
            await delete(resource, namespace, name, uid, version, grace)

        bench.kube.delete = noted  # type: ignore[method-assign] # to see what is asked
        for index in range(4):
            self.node(f"n{index}")
            self.start(index, f"p{index}", f"n{index}")
        self.put_pod("a", "attention", "n0", "10.0.0.100")
        bench.directory.hosts[ANSWERS_AT] = "10.0.0.100"

    def node(self, name: str, ready: str = "True", **spec: Any) -> None:
        conditions = [{"type": "Ready", "status": ready}]
        metadata = {"name": name, "namespace": ""}
        self.bench.kube.put(NODES, {"metadata": metadata, "spec": spec, "status": {"conditions": conditions}})

    def put_pod(self, name: str, component: str, node: str, address: str) -> None:
        labels = {**child_labels("tiny", component), "ray.io/cluster": "tiny-1"}
        metadata = {"name": name, "namespace": "team", "labels": labels}
        running = {"startedAt": self.bench.today.strftime(TIME_FORMAT)}
        status = {
            "podIP": address,
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "ray-worker", "state": {"running": running}}],
        }
        self.bench.kube.put(PODS, {"metadata": metadata, "spec": {"nodeName": node}, "status": status})

    def evict(self, name: str) -> None:
        self.bench.kube.drop(PODS, name)

    def start(self, index: int, pod: str, node: str) -> None:
        """A shard runs in a new pod."""
        address = f"10.0.0.{pod[1:]}"
        self.put_pod(pod, "expert-shard", node, address)
        self.bench.directory.hosts[index] = address
        self.bench.directory.lost -= {index}

    def die(self, *indices: int) -> None:
        self.bench.directory.lost |= set(indices)

    @property
    def pods(self) -> set[str]:
        return {key[2] for key in self.bench.kube.objects if key[0] == PODS.plural and key[2].startswith(("p", "a"))}

    @property
    def wanted(self) -> list[int]:
        """Copies that each shard shall hold."""
        told = json.loads(self.bench.child(RAY_SERVICES)["spec"]["serveConfigV2"])["applications"]
        report = self.bench.directory(next(each for each in told if ".experts" not in each["name"]))
        assert report is not None
        return [shard.wanted for shard in report.shards]

    @property
    def least_apis(self) -> int:
        told = json.loads(self.bench.child(RAY_SERVICES)["spec"]["serveConfigV2"])["applications"]
        core = next(each for each in told if ".experts" not in each["name"])
        api = next(each for each in core["deployments"] if each["name"] == API)
        return int(api["autoscaling_config"]["min_replicas"])

    @property
    def conditions(self) -> set[str]:
        return {each["type"] for each in self.bench.kube.moe()["status"]["conditions"]}

    @property
    def budget(self) -> int:
        return self.budget_of("experts")

    def budget_of(self, role: str) -> int:
        return int(self.bench.child(POD_DISRUPTION_BUDGETS, f"tiny-moe-{role}")["spec"]["minAvailable"])


async def hangs_up(request: web.Request) -> web.StreamResponse:
    """As if nobody were there."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()
