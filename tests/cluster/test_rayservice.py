"""KubeRay as it comes: a RayService with token authentication, head and one worker, answers on its Service."""

import json
import time
from typing import Any

import pod_objects
import pytest
from real_nodes import IMAGE, Nodes

from moe_dev.node.images import MODULES
from moe_operator.release import RAY_VERSION

pytestmark = [pytest.mark.whole, pytest.mark.node]

ANSWER_SECONDS = 240.0
MODULE = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Hello:
    def __call__(self, request):
        return "hello from a pod"

app = Hello.bind()
"""
APPLICATIONS = """
applications:
- name: hello
  import_path: hello:app
  route_prefix: /
"""
ASK = "import urllib.request; print(urllib.request.urlopen('http://hello-serve-svc:8000/', timeout=5).read().decode())"


def ray_pod(name: str, memory: str) -> dict[str, Any]:
    main = {
        "name": name,
        "image": IMAGE,
        "resources": {"requests": {"cpu": "100m", "memory": memory}, "limits": {"cpu": "2", "memory": "3Gi"}},
        "volumeMounts": [{"name": "module", "mountPath": MODULES}],
    }
    return {"spec": {"containers": [main], "volumes": [{"name": "module", "configMap": {"name": "hello"}}]}}


def waiting_for_head(pod: dict[str, Any]) -> dict[str, Any]:
    """KubeRay leaves the wait to pods here."""
    connect = "exec 3<>/dev/tcp/$FQ_RAY_IP/6379"
    command = ["bash", "-c", f"until timeout 2 bash -c '{connect}'; do sleep 0.5; done"]
    pod["spec"]["initContainers"] = [{"name": "wait", "image": IMAGE, "command": command}]
    return pod


def service() -> dict[str, Any]:
    started = {"num-cpus": "1", "object-store-memory": "100000000"}
    head = {"rayStartParams": started | {"dashboard-host": "0.0.0.0"}, "template": ray_pod("ray-head", "1Gi")}
    worker = {
        "groupName": "workers",
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": 1,
        "rayStartParams": started,
        "template": waiting_for_head(ray_pod("ray-worker", "512Mi")),
    }
    config = {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "headGroupSpec": head,
        "workerGroupSpecs": [worker],
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "hello"},
        "spec": {"serveConfigV2": APPLICATIONS, "rayClusterConfig": config},
    }


def test_a_rayservice_answers(nodes: Nodes, namespace: str) -> None:
    kubectl = nodes.kubectl
    module = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hello"}, "data": {"hello.py": MODULE}}
    begun = time.monotonic()
    kubectl.apply(module, service(), pod_objects.sleeper("client", IMAGE), namespace=namespace)
    kubectl.run("wait", "pod/client", "--for=condition=Ready", "-n", namespace, "--timeout=120s", timeout=130.0)
    while (answer := nodes.python(namespace, "client", ASK)) != "hello from a pod":
        if time.monotonic() > begun + ANSWER_SECONDS:
            state = kubectl.get("rayservice", "hello", namespace) or {}
            pods = kubectl.run("get", "pods", "-n", namespace)
            pytest.fail(f"{answer}\n{json.dumps(state.get('status'), indent=1)}\n{pods}")
        time.sleep(0.5)
    print(f"RayService: {time.monotonic() - begun:.0f} s from apply to its answer")
    pods = json.loads(kubectl.run("get", "pods", "-n", namespace, "-l", "ray.io/node-type", "-o", "json"))["items"]
    assert {pod["metadata"]["labels"]["ray.io/node-type"] for pod in pods} == {"head", "worker"}
