"""Who reaches which port of a deployment's pods, where NetworkPolicies are enforced: tried from pods."""

import json
from collections.abc import Iterator

import pod_objects
import pytest
from deployed import ATTENTION, SHARD, Deployed
from real_nodes import IMAGE, Nodes

from moe_operator.api.names import COMPONENT_HEAD

pytestmark = [pytest.mark.whole, pytest.mark.node]

API, DASHBOARD, GCS, CLIENT, RAY_METRICS = 8000, 8265, 6379, 10001, 8080
TRIED = {
    COMPONENT_HEAD: (API, DASHBOARD, GCS, CLIENT, RAY_METRICS),
    ATTENTION: (API, RAY_METRICS),
    SHARD: (API, RAY_METRICS),
}
# What opens of the addresses that it is given, each within two seconds, all at once.
OPEN = """
import concurrent.futures, json, socket, sys

def opens(where):
    try:
        socket.create_connection((where[1], where[2]), timeout=2).close()
    except OSError:
        return None
    return where

with concurrent.futures.ThreadPoolExecutor(32) as pool:
    found = pool.map(opens, json.loads(sys.argv[1]))
    print(json.dumps(sorted({(where[0], where[2]) for where in found if where})))
"""
PUBLIC = {(ATTENTION, API)}
# Until a change of the spec is a rule on each node.
POLICY_SECONDS = 60.0


def addresses(deployed: Deployed) -> str:
    """Component, address and port of all pods, as JSON."""
    pods = [(role, pod["status"]["podIP"]) for role in TRIED for pod in deployed.pods(role).values()]
    return json.dumps([(role, address, port) for role, address in pods for port in TRIED[role]])


def opened(deployed: Deployed, namespace: str, pod: str) -> set[tuple[str, int]]:
    """What opens to a pod."""
    said = deployed.nodes.python(namespace, pod, OPEN, addresses(deployed))
    assert said.startswith("["), said
    return {(role, port) for role, port in json.loads(said)}


@pytest.fixture
def strangers(nodes: Nodes, namespace: str) -> Iterator[str]:
    """A foreign namespace with pods: one of no labels to speak of, and one with those of our operator."""
    plain, like_ours = (pod_objects.sleeper(name, IMAGE) for name in ("stranger", "like-ours"))
    like_ours["metadata"]["labels"]["moe-operator.io/component"] = "operator"
    nodes.kubectl.apply(plain, like_ours, namespace=namespace)
    where = ("pod", "--all", "--for=condition=Ready", "-n", namespace, "--timeout=60s")
    nodes.kubectl.run("wait", *where, timeout=70.0)
    yield namespace


def test_strangers_reach_the_api_and_nothing_else(deployed: Deployed, strangers: str) -> None:
    deployed.wait_whole()
    assert opened(deployed, strangers, "stranger") == PUBLIC
    assert opened(deployed, strangers, "like-ours") == PUBLIC


def test_whom_the_deployment_does_not_name_reaches_nothing(deployed: Deployed, strangers: str) -> None:
    deployed.wait_whole()
    namespace = {"kubernetes.io/metadata.name": strangers}
    deployed.patch(
        runtime={"kubeRay": {"apiFrom": [{"namespaceLabels": namespace, "podLabels": {"app": "like-ours"}}]}}
    )
    try:
        deployed.objects.wait(
            "the policy to be in force", lambda: not opened(deployed, strangers, "stranger"), POLICY_SECONDS
        )
        assert opened(deployed, strangers, "like-ours") == PUBLIC
    finally:
        deployed.patch(runtime={"kubeRay": {"apiFrom": []}})
    deployed.objects.wait(
        "everybody to be let in", lambda: opened(deployed, strangers, "stranger") == PUBLIC, POLICY_SECONDS
    )


def test_pods_of_the_deployment_reach_each_other(deployed: Deployed) -> None:
    deployed.wait_whole()
    (head,) = deployed.pods(COMPONENT_HEAD)
    assert opened(deployed, deployed.namespace, head) >= {
        (COMPONENT_HEAD, DASHBOARD), (COMPONENT_HEAD, GCS), (ATTENTION, API), (SHARD, API)
    }  # fmt: skip
