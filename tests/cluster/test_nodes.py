"""Nodes: they are ready, pods reach each other by name, policies hold, and a drained node's pods go elsewhere."""

import json
import time
from collections.abc import Callable

import pod_objects
import pytest
from real_nodes import IMAGE, Nodes

from moe_dev.kube import Kubectl

pytestmark = [pytest.mark.whole, pytest.mark.node]

START = "--timeout=120s"
POLICY_SECONDS = 20.0
# The name, not the address: DNS and the Service's address are part of it.
ASK = "import urllib.request; print(urllib.request.urlopen('http://web/os-release', timeout=2).status)"


def wait_for(what: str, seconds: float, found: Callable[[], str], wanted: Callable[[str], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not wanted(last := found()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}, and last found: {last}"
        time.sleep(0.3)


def test_every_node_is_ready(nodes: Nodes) -> None:
    listed = json.loads(nodes.kubectl.run("get", "nodes", "-o", "json"))["items"]
    ready = {
        node["metadata"]["name"]
        for node in listed
        for condition in node["status"]["conditions"]
        if (condition["type"], condition["status"]) == ("Ready", "True")
    }
    assert ready == set(nodes.names)


def test_pods_reach_a_service_by_name_and_a_policy_keeps_strangers_out(nodes: Nodes, namespace: str) -> None:
    kubectl = nodes.kubectl
    apps = [*pod_objects.web(IMAGE, 2), pod_objects.sleeper("friend", IMAGE), pod_objects.sleeper("stranger", IMAGE)]
    kubectl.apply(*apps, namespace=namespace)

    def asked(pod: str) -> str:
        """The answer's status, or the error."""
        return nodes.python(namespace, pod, ASK)

    kubectl.run("rollout", "status", "deployment/web", "-n", namespace, START, timeout=130.0)
    kubectl.run("wait", "pod", "--all", "--for=condition=Ready", "-n", namespace, START, timeout=130.0)
    for pod in ("friend", "stranger"):
        wait_for(f"an answer to {pod}", POLICY_SECONDS, lambda pod=pod: asked(pod), "200".__eq__)
    kubectl.apply(pod_objects.let_in("friend"), namespace=namespace)
    wait_for("the policy", POLICY_SECONDS, lambda: asked("stranger"), lambda it: "timed out" in it)
    # Of the answers until then some came from before it.
    assert [asked("friend") for _ in range(4)] == ["200"] * 4
    assert "timed out" in asked("stranger")
    kubectl.run("delete", "networkpolicy", "web", "-n", namespace)
    wait_for("the end of the policy", POLICY_SECONDS, lambda: asked("stranger"), "200".__eq__)


def test_a_drained_nodes_pods_go_elsewhere(nodes: Nodes, namespace: str) -> None:
    if len(nodes.names) < 2:
        pytest.skip("one node has nowhere to drain to: NODES=2")
    kubectl = nodes.kubectl
    kubectl.apply(*pod_objects.web(IMAGE, 2), namespace=namespace)
    kubectl.run("rollout", "status", "deployment/web", "-n", namespace, START, timeout=130.0)
    node = where(kubectl, namespace).pop()
    try:
        kubectl.run("drain", node, "--pod-selector=app=web", "--timeout=60s", timeout=70.0)
        kubectl.run("rollout", "status", "deployment/web", "-n", namespace, START, timeout=130.0)
        places = where(kubectl, namespace)
    finally:
        kubectl.run("uncordon", node)
    assert places
    assert node not in places


def where(kubectl: Kubectl, namespace: str) -> set[str]:
    """The nodes of pods that are not on their way out."""
    pods = json.loads(kubectl.run("get", "pods", "-n", namespace, "-l", "app=web", "-o", "json"))["items"]
    return {pod["spec"]["nodeName"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}
