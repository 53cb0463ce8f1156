"""A MoEDeployment on nodes: the chart's operator, KubeRay's pods and the tiny model; `make e2e-sample` is this file."""

import json
import time

import pod_objects
import pytest
from answers import BODY, unsharded
from deployed import NAME, SHARD, SHARDS, Deployed
from figures import Figures
from real_nodes import IMAGE

pytestmark = [pytest.mark.whole, pytest.mark.node]

# Bounds on a busy machine; what is promised stands beside the figure.
LOST_SECONDS, MORE_SECONDS, FEWER_SECONDS = 120.0, 120.0, 180.0
ASK = """
import json, sys, urllib.request
url, body = sys.argv[1:]
request = urllib.request.Request(f"{url}/completions", body.encode(), {"Content-Type": "application/json"})
print(json.dumps(json.load(urllib.request.urlopen(request, timeout=30))["choices"][0]["text"]))
"""


def test_pods_that_pass_the_restricted_standard_answer_as_the_unsharded_model(deployed: Deployed) -> None:
    """At the name that the status tells, asked from a pod."""
    kubectl, namespace = deployed.nodes.kubectl, deployed.namespace
    kubectl.apply(pod_objects.sleeper("client", IMAGE), namespace=namespace)
    kubectl.run("wait", "pod/client", "--for=condition=Ready", "-n", namespace, "--timeout=60s", timeout=70.0)
    answer = deployed.nodes.python(namespace, "client", ASK, deployed.status()["url"], BODY)
    kubectl.run("delete", "pod", "client", "-n", namespace, "--wait=false")
    assert json.loads(answer) == unsharded()


def test_a_lost_shard_interrupts_nobody(deployed: Deployed, figures: Figures) -> None:
    deployed.wait_whole()
    with deployed.traffic() as traffic:
        victim = sorted(deployed.pods(SHARD))[0]
        figures.add("a shard's pod lost, until it serves again", deployed.lose_shard(victim, LOST_SECONDS), 20)
        traffic.flow()
    assert victim not in deployed.pods(SHARD)
    traffic.check("a shard's pod force-deleted")


def test_shards_become_more_and_fewer_by_kubectl_scale(deployed: Deployed, figures: Figures) -> None:
    deployed.wait_whole()
    others = set(deployed.pods(SHARD))
    with deployed.traffic() as traffic:
        begun = time.monotonic()
        deployed.objects.scale(NAME, 2 * SHARDS)
        deployed.objects.wait("four to serve", lambda: deployed.ready_shards() == 2 * SHARDS, MORE_SECONDS)
        figures.add("2 to 4 shards, until four serve", time.monotonic() - begun, 30)
        assert others < set(deployed.pods(SHARD)), "a pod of a shard that stayed was replaced"
        traffic.flow()
        begun = time.monotonic()
        deployed.objects.scale(NAME, SHARDS)
        deployed.objects.wait("two pods to go", lambda: len(deployed.pods(SHARD)) == SHARDS, FEWER_SECONDS)
        figures.add("4 to 2 shards, until the pods are gone", time.monotonic() - begun, 60)
        assert others == set(deployed.pods(SHARD)), "pods went that had a shard which stayed"
        traffic.flow()
    traffic.check("2 to 4 to 2 shards")
