"""Nodes that are drained, and one that dies, under load: shards are on other nodes first, or made from other copies."""

import contextlib
import json
import time
from collections.abc import Iterator

import pytest
from deployed import ATTENTION, HEAD, NAME, SHARD, SHARDS, Deployed
from figures import Figures

from moe_operator.api.names import LABEL_COMPONENT, LABEL_DEPLOYMENT

pytestmark = [pytest.mark.whole, pytest.mark.node]

# Bounds on a busy machine. The second node is drained with all pods on it, since the first one was.
MORE_SECONDS, DRAIN_SECONDS, BACK_SECONDS = 180.0, 300.0, 180.0
WORKERS = f"{LABEL_COMPONENT} in ({SHARD},{ATTENTION})"
"""The head's node is not drained of it: without fault tolerance of the GCS its end restarts every worker."""
OTHERS = f"!{LABEL_DEPLOYMENT}"
"""What the cluster itself needs, and the operator."""
AVOIDED = "moe-test/avoided=:NoSchedule"
"""A taint that says nothing to the operator: the node does not leave."""


@contextlib.contextmanager
def four_shards(deployed: Deployed) -> Iterator[None]:
    """So many that the copies find room on those that stay, and attention on each node."""
    if len(deployed.nodes.names) < 2:
        pytest.skip("it takes two nodes")
    deployed.patch(experts={"shards": 2 * SHARDS})
    try:
        deployed.wait_whole(2 * SHARDS, MORE_SECONDS)
        deployed.objects.wait("all replicas of attention", deployed.attention_is_whole, MORE_SECONDS)
        yield
    except BaseException:
        print(deployed.told(), json.dumps(deployed.objects.get(NAME), indent=1))
        raise
    finally:
        deployed.patch(experts={"shards": SHARDS})
    deployed.wait_whole()


def drained(deployed: Deployed, node: str, pods: str, *more: str) -> float:
    """Seconds that ``kubectl drain`` takes."""
    begun = time.monotonic()
    options = ("--ignore-daemonsets", "--delete-emptydir-data", f"--pod-selector={pods}", *more)
    timeout = f"--timeout={DRAIN_SECONDS:.0f}s"
    deployed.nodes.kubectl.run("drain", node, *options, timeout, timeout=DRAIN_SECONDS + 10.0)
    return time.monotonic() - begun


def spread(deployed: Deployed) -> None:
    """Half of the shards, and of two attention replicas one, are on each of two nodes from now on: Ray moves nothing
    back when a node that was drained may be used again."""
    for node in deployed.nodes.names:
        deployed.nodes.kubectl.run("taint", "node", node, AVOIDED)
        try:
            while len(crowd := on(deployed, node, SHARD)) > SHARDS:
                deployed.lose_shard(crowd[0], BACK_SECONDS)
                deployed.wait_whole(2 * SHARDS, BACK_SECONDS)
            if len(crowd := on(deployed, node, ATTENTION)) > 1:
                deployed.kill(crowd[0])
                deployed.objects.wait("it to be missed", lambda: not deployed.attention_is_whole(), MORE_SECONDS)
                deployed.objects.wait("all replicas of attention", deployed.attention_is_whole, MORE_SECONDS)
        finally:
            deployed.nodes.kubectl.run("taint", "node", node, f"{AVOIDED}-")
    # Then the operator has copies, and Ray apis, on both again.
    for node in deployed.nodes.names:
        wait, seconds = deployed.objects.wait, 2 * MORE_SECONDS
        wait(f"all experts, and an api, on {node}", lambda node=node: could_do_alone(deployed, node), seconds)


def could_do_alone(deployed: Deployed, node: str) -> bool:
    """Whether requests would be answered if the other node were lost: by its shards, as they hold what they are to
    hold, and an api."""
    pods = (deployed.pods(SHARD) | deployed.pods(ATTENTION)).values()
    hosts = {pod["status"].get("podIP") for pod in pods if pod["spec"].get("nodeName") == node}
    report, content = deployed.directory()(), deployed.placement()
    shards = [shard.index for shard in report.shards if shard.host in hosts and shard.held >= shard.wanted > 0]
    slots, layers = content["slotsPerShard"], [layer.split() for layer in content["layers"]]
    held = [{expert for shard in shards for expert in layer[shard * slots :][:slots]} - {"-"} for layer in layers]
    has_all = all(len(experts) == content["experts"] for experts in held)
    return has_all and any(api.ready and api.host in hosts for api in report.apis)


def on(deployed: Deployed, node: str, component: str) -> list[str]:
    """Names of pods."""
    return sorted(pod for pod, where in deployed.nodes_of(component).items() if where == node)


def test_each_node_is_drained_and_nobody_notices(deployed: Deployed, figures: Figures) -> None:
    kubectl, nodes = deployed.nodes.kubectl, deployed.nodes.names
    with four_shards(deployed):
        try:
            with deployed.traffic() as traffic:
                for node in nodes:
                    figures.add(f"kubectl drain {node}", drained(deployed, node, WORKERS))
                    begun = time.monotonic()
                    # Ray's autoscaler starts a pod for each that ends, and KubeRay another one, which goes once idle.
                    deployed.wait_serving(2 * SHARDS, BACK_SECONDS)
                    figures.add(f"then, until all {2 * SHARDS} shards serve", time.monotonic() - begun)
                    there = deployed.nodes_of(SHARD) | deployed.nodes_of(ATTENTION)
                    assert node not in there.values(), f"{node} is cordoned, and on it is some of {there}"
                    traffic.flow()
                    kubectl.run("uncordon", node)
        finally:
            for node in nodes:
                kubectl.run("uncordon", node)
        traffic.check(f"{len(nodes)} nodes drained")
        figures.add("longest pause of an answer while nodes are drained", traffic.longest_pause)


def test_what_a_dead_node_held_is_made_from_other_copies(deployed: Deployed, dying: str, figures: Figures) -> None:
    """Asked at a pod that lives: which pods a Service leads to is Kubernetes' business, and takes it 40 s."""
    kubectl = deployed.nodes.kubectl
    (head,) = deployed.nodes_of(HEAD).values()
    assert head != dying
    drained(deployed, dying, OTHERS, "--force")
    kubectl.run("uncordon", dying)
    with four_shards(deployed):
        spread(deployed)
        attention, shards = deployed.nodes_of(ATTENTION), deployed.nodes_of(SHARD)
        assert set(attention.values()) == set(shards.values()) == {head, dying}
        living = next(pod for pod, node in attention.items() if node == head)
        with deployed.traffic(living) as traffic:
            begun = time.monotonic()
            assert deployed.nodes.own is not None
            deployed.nodes.own.lose(dying)
            deployed.objects.wait(
                "its shards' pods to be removed",
                lambda: dying not in deployed.nodes_of(SHARD).values(),
                DRAIN_SECONDS,
            )
            missed = time.monotonic()
            figures.add("a node lost, until its shards' pods are removed by force", missed - begun)
            deployed.wait_serving(2 * SHARDS, BACK_SECONDS)
            figures.add("a node lost, until all shards serve", time.monotonic() - begun)
            traffic.flow()
        assert set(deployed.nodes_of(SHARD).values()) == {head}
        traffic.check("a node lost", lambda one: "api_lost" in one.why and one.begun < missed)
        figures.add("requests that the lost node carried", len(traffic.failed), unit="")
        figures.add("longest pause of an answer when a node is lost", traffic.longest_pause)
