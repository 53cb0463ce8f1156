"""Shards become more and fewer under load by the policy of the spec."""

import time

import pytest
from deployed import SHARD, SHARDS, Deployed
from figures import Figures

pytestmark = [pytest.mark.whole, pytest.mark.node]

MOST = 2 * SHARDS
# Bounds on a busy machine; what is promised stands beside the figure.
DECIDED_SECONDS, MORE_SECONDS, FEWER_SECONDS = 120.0, 120.0, 180.0
POLICY = {"minShards": SHARDS, "maxShards": MOST, "scaleUpAfter": "5s", "scaleDownAfter": "5s"}


def test_shards_become_more_and_fewer_by_the_policy(deployed: Deployed, figures: Figures) -> None:
    def decided(target_utilisation: int, shards: int) -> float:
        """When the policy had written so many."""
        deployed.patch(experts={"autoscaling": {**POLICY, "targetUtilization": target_utilisation}})
        deployed.objects.wait(f"{shards} to be wanted", lambda: deployed.shards_wanted() == shards, DECIDED_SECONDS)
        return time.monotonic()

    deployed.wait_whole()
    others, wait = set(deployed.pods(SHARD)), deployed.objects.wait
    try:
        with deployed.traffic() as traffic:
            begun = decided(5, MOST)
            wait("four to serve", lambda: deployed.ready_shards() == MOST, MORE_SECONDS)
            figures.add("2 to 4 shards by the policy, until four serve", time.monotonic() - begun, 30)
            traffic.flow()
            begun = decided(95, SHARDS)
            wait("two pods to go", lambda: len(deployed.pods(SHARD)) == SHARDS, FEWER_SECONDS)
            figures.add("4 to 2 shards by the policy, until the pods are gone", time.monotonic() - begun, 60)
            assert others == set(deployed.pods(SHARD)), "pods went that had a shard which stayed"
            traffic.flow()
        traffic.check("2 to 4 to 2 shards by the policy")
    finally:
        deployed.patch(experts={"autoscaling": None, "shards": SHARDS})
