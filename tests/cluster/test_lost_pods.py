"""Pods that are gone without a word, under load: what is lost with each, and that all comes back by itself."""

import time

import pod_objects
import pytest
from benchmarks.serving.client import Outcome
from deployed import ATTENTION, HEAD, SMALL, TOKEN_SECONDS, Deployed
from figures import Figures
from real_nodes import IMAGE, Nodes
from traffic import STREAMS

from moe_dev.helm import Helm

pytestmark = [pytest.mark.whole, pytest.mark.node]

# Bounds on a busy machine.
LOST_SECONDS, HEAD_SECONDS = 180.0, 300.0
CUT = ("api_lost", "ServerDisconnectedError", "ClientPayloadError", "ClientOSError", "ClientConnectorError")
"""How an answer ends whose api, or the proxy before it, went with a pod."""


def skip_on_one(nodes: Nodes) -> None:
    """Of attention there is a replica for each node."""
    if len(nodes.names) < 2:
        pytest.skip("it takes two nodes")


def workers_of(deployed: Deployed) -> dict[str, int]:
    """{uid: restarts} of its pods but the head, once there are no more than are needed."""
    deployed.wait_whole()
    nodes = len(deployed.nodes.names)
    deployed.objects.wait("no more attention", lambda: len(deployed.pods(ATTENTION)) == nodes, LOST_SECONDS)
    (head,) = map(deployed.uid, deployed.pods(HEAD))
    return {pod: restarts for pod, restarts in deployed.lives().items() if pod != head}


def is_cut(one: Outcome) -> bool:
    return any(word in one.why for word in CUT)


def test_a_lost_pod_of_attention_costs_the_answers_that_it_carried(deployed: Deployed, figures: Figures) -> None:
    """Those of its api, and of its proxy, which its clients were connected to; others at most stand still."""
    skip_on_one(deployed.nodes)
    deployed.wait_whole()
    deployed.objects.wait("all replicas of attention", deployed.attention_is_whole, LOST_SECONDS)
    victim = sorted(deployed.pods(ATTENTION))[0]
    with deployed.traffic() as traffic:
        begun = time.monotonic()
        deployed.kill(victim)
        deployed.objects.wait("it to be missed", lambda: not deployed.attention_is_whole(), LOST_SECONDS)
        missed = time.monotonic()
        deployed.objects.wait("all replicas of attention", deployed.attention_is_whole, LOST_SECONDS)
        figures.add("a pod of attention lost, until all replicas answer", time.monotonic() - begun)
        traffic.flow()
    assert victim not in deployed.pods(ATTENTION)
    traffic.check("a pod of attention force-deleted", lambda one: is_cut(one) and one.begun < missed)
    figures.add("answers lost with a pod of attention", len(traffic.failed), STREAMS, "")
    figures.add("longest pause of an answer then", traffic.longest_pause)


def test_without_a_place_for_its_state_the_end_of_the_head_replaces_every_worker_once(
    deployed: Deployed, figures: Figures
) -> None:
    workers = workers_of(deployed)
    (head,) = deployed.pods(HEAD)

    def are_gone() -> bool:  # KubeRay has no pod restart where Ray scales
        return not workers.keys() & deployed.lives().keys()

    begun = time.monotonic()
    deployed.kill(head)
    deployed.objects.wait("every worker to be gone", are_gone, HEAD_SECONDS)
    figures.add("the head lost, until all workers are gone", time.monotonic() - begun)
    deployed.objects.wait("an answer", lambda: deployed.first_token() is None, HEAD_SECONDS)
    figures.add("the head lost, until the first token", time.monotonic() - begun)
    deployed.wait_whole(seconds=HEAD_SECONDS)
    replaced = workers_of(deployed)
    with deployed.traffic() as traffic:
        traffic.flow()
    traffic.check("after a head was lost")
    assert workers_of(deployed) == replaced


def test_with_a_redis_the_end_of_the_head_costs_nobody(
    nodes: Nodes, operator: Helm, namespace: str, figures: Figures
) -> None:
    skip_on_one(nodes)
    nodes.kubectl.apply(*pod_objects.redis(IMAGE), namespace=namespace)
    tiny = Deployed(nodes, namespace)
    tiny.apply(head={**SMALL, "gcsFaultTolerance": {"redisAddress": "redis:6379"}})
    tiny.wait_for_a_token(time.monotonic() + TOKEN_SECONDS)
    tiny.objects.wait("all replicas of attention", tiny.attention_is_whole, LOST_SECONDS)
    workers = workers_of(tiny)
    (head,) = tiny.pods(HEAD)
    with tiny.traffic() as traffic:
        begun = time.monotonic()
        tiny.kill(head)
        tiny.objects.wait("it to be missed", lambda: not tiny.attention_is_whole(), LOST_SECONDS)
        tiny.objects.wait("another one", tiny.attention_is_whole, HEAD_SECONDS)
        figures.add(
            "the head lost with a Redis, until the operator hears through another one", time.monotonic() - begun
        )
        traffic.flow()
    now = tiny.lives()
    assert {pod: now.get(pod) for pod in workers} == workers
    traffic.check("the head force-deleted, with a Redis")
    tiny.delete()
