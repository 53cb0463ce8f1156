"""The tiny model on nodes: its manifest, and what tests do to it and ask of it."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from benchmarks.serving.client import Ask, Client
from moe_objects import Objects
from real_nodes import IMAGE, Nodes
from traffic import Traffic

from moe_contract.base import CONTRACT
from moe_contract.report import CONTRACT_HEADER, INTERNAL_REPORT_PATH, INTERNAL_STATISTICS_PATH, DirectoryReport
from moe_dev.kube import Kubectl
from moe_dev.node.images import SOURCE
from moe_operator.api.names import (
    COMPONENT_ATTENTION,
    COMPONENT_HEAD,
    COMPONENT_SHARD,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    api_service_name,
)
from moe_operator.kube.secrets import INTERNAL_KEY, internal_key_name
from moe_operator.runtimes.kube_ray.manifests.names import LABEL_CLUSTER
from moe_operator.runtimes.kube_ray.manifests.service import selected_cluster
from moe_placement.statistics import RoutingStatistics, decode_statistics

Json = dict[str, Any]

NAME = "tiny"
# The namespace of the operator.
SYSTEM = "moe-system"
MODEL = "models/tiny"
SHARDS = 2
# From nothing to an answer, on a busy machine.
TOKEN_SECONDS = 240.0
SHARD, ATTENTION, HEAD = COMPONENT_SHARD, COMPONENT_ATTENTION, COMPONENT_HEAD
# Ray's processes, and in pods of a shard or of attention one of ours.
SMALL = {"resources": {"requests": {"cpu": "100m", "memory": "512Mi"}}}
KUBE_RAY: Json = {
    "image": IMAGE,
    "head": SMALL,
    "attentionWorkers": SMALL,
    "expertWorkers": SMALL,
    # Longer than experts are loaded for, and than any stream of these tests.
    "upgrade": {"deletionDelaySeconds": 60},
}


def spec(nodes: int, **kube_ray: Any) -> Json:
    """Two copies of each expert; as many attention replicas as nodes, so that one can be lost where there are two."""
    return {
        "model": {"source": {"path": f"{SOURCE}/{MODEL}"}, "dtype": "float32"},
        "experts": {"shards": SHARDS, "copies": {"min": 2}},
        "attention": {"minReplicas": nodes, "maxReplicas": nodes},
        "runtime": {"kubeRay": {**KUBE_RAY, **kube_ray}},
    }


def start(kubectl: Kubectl, deployment: str, module: str) -> None:
    """Have a Deployment of the chart's run a module: the nodes' image has no commands of ours, and starts nothing."""
    run = ["python", "-m", module]
    patch = json.dumps([{"op": "add", "path": "/spec/template/spec/containers/0/command", "value": run}])
    kubectl.run("patch", "deployment", deployment, "-n", SYSTEM, "--type=json", f"--patch={patch}")


class Deployed:
    """The MoEDeployment ``tiny`` of a namespace."""

    def __init__(self, nodes: Nodes, namespace: str) -> None:
        self.nodes = nodes
        self.namespace = namespace
        self.objects = Objects(nodes.kubectl, namespace)

    def apply(self, **kube_ray: Any) -> None:
        self.objects.apply(NAME, spec(len(self.nodes.names), **kube_ray))

    def delete(self) -> None:
        """And wait until nothing of it is left but what Kubernetes collects."""
        where = ("-n", self.namespace, "--timeout=60s")
        self.nodes.kubectl.run("delete", "moedeployment", NAME, *where, timeout=70.0)
        assert not self.nodes.kubectl.get("rayservice", NAME, self.namespace), "what it had is still there"

    def status(self) -> Json:
        return self.objects.status(NAME)

    def ready_shards(self) -> int:
        return int(self.status().get("readyShards", 0))

    def patch(self, **spec: Any) -> None:
        self.objects.patch(NAME, json.dumps({"spec": spec}))

    def kill(self, pod: str) -> None:
        """As a node that is lost does it: nobody in the pod is asked."""
        self._kubectl("delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")

    def pods(self, component: str) -> dict[str, Json]:
        """{name: pod} of those that are not on their way out."""
        listed = json.loads(self._kubectl("get", "pods", "-l", f"{LABEL_COMPONENT}={component}", "-o", "json"))["items"]
        return {pod["metadata"]["name"]: pod for pod in listed if "deletionTimestamp" not in pod["metadata"]}

    def running_pods(self, component: str) -> int:
        return sum(pod["status"].get("phase") == "Running" for pod in self.pods(component).values())

    def nodes_of(self, component: str) -> dict[str, str]:
        """{pod: its node; empty while it has none}"""
        return {name: pod["spec"].get("nodeName", "") for name, pod in self.pods(component).items()}

    def attention_is_whole(self) -> bool:
        """Whether as many replicas answer as should: while fewer do, the budget lets no pod of theirs go."""
        budget = self.nodes.kubectl.get("poddisruptionbudget", f"{NAME}-moe-attention", self.namespace) or {}
        return int(budget.get("status", {}).get("disruptionsAllowed", 0)) > 0

    def uid(self, pod: str) -> str:
        return str((self.nodes.kubectl.get("pod", pod, self.namespace) or {})["metadata"]["uid"])

    def lives(self) -> dict[str, int]:
        """{uid of each pod of the deployment: how often its containers were started anew}."""
        listed = json.loads(self._kubectl("get", "pods", "-l", f"{LABEL_DEPLOYMENT}={NAME}", "-o", "json"))["items"]
        return {
            pod["metadata"]["uid"]: sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))
            for pod in listed
        }

    def of_cluster(self, cluster: str) -> list[str]:
        """Names of a Ray cluster's pods."""
        return self._kubectl("get", "pods", "-l", f"{LABEL_CLUSTER}={cluster}", "-o", "name").split()

    def cluster(self) -> str:
        """The Ray cluster that the Service of its API leads to."""
        return str(selected_cluster(self.service()))

    def statistics(self) -> RoutingStatistics | None:
        """Of the traffic, by the directory that answers; None before there are any."""
        with urllib.request.urlopen(self._internal(INTERNAL_STATISTICS_PATH), timeout=30) as answer:
            return decode_statistics(answer.read()) if answer.status == 200 else None

    def placement(self) -> Json:
        """Content of the placement in force; empty where there is none."""
        revision = self.status().get("placement", {}).get("revision")
        return self.objects.placement(f"{NAME}-r{revision}")["spec"]["content"] if revision else {}

    def rotate_placement(self) -> str:
        """Write the next revision, in which each shard has what the next one holds; its name."""
        content = self.placement()
        slots, layers = content["slotsPerShard"], [layer.split() for layer in content["layers"]]
        base = content["revision"]
        rotated = [" ".join(layer[slots:] + layer[:slots]) for layer in layers]
        content |= {"baseRevision": base, "revision": base + 1, "layers": rotated}
        name = f"{NAME}-r{base + 1}"
        manifest = {
            "apiVersion": "moe-operator.io/v1alpha1",
            "kind": "ExpertPlacement",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"deploymentRef": {"name": NAME}, "content": content},
        }
        self.nodes.kubectl.apply(manifest)
        return name

    def lose_shard(self, pod: str, seconds: float) -> float:
        """Kill a pod that has a shard; returns the seconds until that serves elsewhere, with all its experts."""
        host, report = self.pods(SHARD)[pod]["status"]["podIP"], self.directory()
        (lost,) = (shard.index for shard in report().shards if shard.host == host)

        def serves() -> bool:
            found = (shard for shard in report().shards if shard.index == lost and shard.host != host)
            return any(shard.phase == "Ready" and 0 < shard.wanted <= shard.held for shard in found)

        begun = time.monotonic()
        self.kill(pod)
        self.objects.wait("it to serve elsewhere", serves, seconds)
        return time.monotonic() - begun

    def directory(self) -> Callable[[], DirectoryReport]:
        """Asks for what it tells the operator, which itself looks seldomer than a shard may be lost and back."""
        request = self._internal(INTERNAL_REPORT_PATH)

        def ask() -> DirectoryReport:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return DirectoryReport.model_validate_json(answer.read())

        return ask

    def _internal(self, path: str) -> urllib.request.Request:
        """Of what the operator asks of the directory that answers."""
        key = self.objects.secret_value(internal_key_name(NAME), INTERNAL_KEY)
        headers = {CONTRACT_HEADER: str(CONTRACT), "Authorization": f"Bearer {key}"}
        return urllib.request.Request(str(self.url()).removesuffix("/v1") + path, headers=headers)

    def shards_wanted(self) -> int:
        """As somebody scaled it last."""
        return int((self.objects.get(NAME) or {})["spec"]["experts"]["shards"])

    def wait_whole(self, shards: int = SHARDS, seconds: float = 180.0) -> None:
        """Until so many shards answer, and each has a pod, and no more pods are there than shards."""
        self.objects.wait(
            f"{shards} shards that answer",
            lambda: self.ready_shards() == shards and len(self.pods(SHARD)) == shards,
            seconds,
        )

    def wait_serving(self, shards: int, seconds: float) -> None:
        """Until so many shards answer, whatever pods there are."""
        self.objects.wait(f"{shards} shards that answer", lambda: self.ready_shards() == shards, seconds)

    def service(self) -> Json:
        """Of its API; empty while there is none."""
        return self.nodes.kubectl.get("service", api_service_name(NAME), self.namespace) or {}

    def url(self) -> str | None:
        """Of its API, as this machine reaches it; None while there is none."""
        service, told = self.service(), self.status().get("url")
        if not service or not told:
            return None
        parts = urlsplit(told)
        return urlunsplit(parts._replace(netloc=f"{service['spec']['clusterIP']}:{parts.port}"))

    def url_at(self, pod: str) -> str:
        """Of its API by the proxy in a pod of attention, whatever becomes of Services."""
        told = self.status()["url"]
        address = self.pods(ATTENTION)[pod]["status"]["podIP"]
        return urlunsplit(urlsplit(told)._replace(netloc=f"{address}:{urlsplit(told).port}"))

    def wait_for_a_token(self, deadline: float) -> None:
        """Until that time of the monotonic clock."""
        while (missing := self.first_token()) is not None:
            assert time.monotonic() < deadline, f"waited for a token: {missing}\n{self.told()}"
            time.sleep(0.3)

    def first_token(self) -> str | None:
        """None once there is one, else what came instead."""
        url = self.url()
        if url is None:
            return "no address yet"

        async def ask() -> str | None:
            async with Client(url, NAME) as client:
                outcome = await client.ask(Ask((5, 6, 7), 1))
                return None if outcome.first is not None else outcome.why

        return asyncio.run(ask())

    def traffic(self, pod: str | None = None) -> Traffic:
        """By its Service, or by the proxy in one pod."""
        url = self.url() if pod is None else self.url_at(pod)
        assert url is not None, "no address yet"
        return Traffic(url, NAME)

    def told(self) -> str:
        """What there is, for the message of a failure."""
        states = [self.nodes.kubectl.get(kind, NAME, self.namespace) or {} for kind in ("moedeployment", "rayservice")]
        pods = self._kubectl("get", "pods", "-o", "wide")
        return f"{json.dumps([state.get('status') for state in states], indent=1)}\n{pods}"

    def _kubectl(self, *arguments: str) -> str:
        return self.nodes.kubectl.run(*arguments, "-n", self.namespace)
