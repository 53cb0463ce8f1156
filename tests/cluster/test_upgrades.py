"""A second Ray cluster beside the first, under load: what is lost, what is taken over, and how many pods it takes.

Of all files here the last one: where an upgrade does not come to its end, only the death of a node meets two clusters.
"""

import time

import pytest
from deployed import Deployed
from figures import Figures

from moe_operator.rebalance.recent import Mark, since
from moe_placement.statistics import RoutingStatistics

pytestmark = [pytest.mark.whole, pytest.mark.node]

# Bounds on a busy machine: a window of statistics ends; a second cluster comes up beside the first.
GATHERED_SECONDS, UPGRADE_SECONDS = 60.0, 400.0
# Of which single ones are known again; some answers.
TOKENS = 200.0


def test_other_resources_come_by_a_second_cluster_that_takes_all_over(deployed: Deployed, figures: Figures) -> None:
    deployed.wait_whole()
    former, extra = deployed.cluster(), ExtraPods(deployed)

    def is_led_elsewhere() -> bool:
        extra.look()
        return deployed.cluster() != former

    def has_gone() -> bool:
        extra.look()
        return not deployed.of_cluster(former)

    with deployed.traffic() as traffic:
        deployed.objects.wait("statistics", lambda: is_of_many(deployed.statistics()), GATHERED_SECONDS)
        placement, known = deployed.placement(), deployed.statistics()
        begun = time.monotonic()
        memory = {"resources": {"requests": {"memory": "520Mi"}}}
        deployed.patch(runtime={"kubeRay": {"expertWorkers": memory}})
        deployed.objects.wait("another cluster to answer", is_led_elsewhere, UPGRADE_SECONDS)
        figures.add("other resources, until the new cluster answers", time.monotonic() - begun)
        taken_over = deployed.statistics()
        deployed.objects.wait("the former cluster to go", has_gone, UPGRADE_SECONDS)
        figures.add("the same, until the former one is gone", time.monotonic() - begun)
        traffic.flow()
    figures.add("the same, most pods at a time beside those there were", extra.most, unit="pods")
    figures.add("the same, these pods and for how long", extra.pod_seconds, unit="pod s")
    assert known is not None
    assert taken_over is not None, "the new cluster has no statistics"
    # What it gathered itself since then does not have these tokens in its sample, however many they are.
    assert since(taken_over, [Mark.of(known, 0.0)], 1.0) is not None, (
        f"of the {known.tokens:.0f} tokens that were known the {taken_over.tokens:.0f} of the new cluster have none"
    )
    assert deployed.placement() == placement
    traffic.check("other resources")
    deployed.wait_whole()


def is_of_many(statistics: RoutingStatistics | None) -> bool:
    """Whether single tokens of it would be known again in later ones."""
    return statistics is not None and statistics.tokens >= TOKENS


class ExtraPods:
    """Pods of a deployment beside those that it had at first, as they are looked at.

    Attributes:
        most: at a time.
        pod_seconds: their sum over time.
    """

    def __init__(self, deployed: Deployed) -> None:
        self.most, self.pod_seconds = 0, 0.0
        self._deployed = deployed
        self._before, self._last = len(deployed.lives()), time.monotonic()

    def look(self) -> None:
        extra, now = max(len(self._deployed.lives()) - self._before, 0), time.monotonic()
        self.most = max(self.most, extra)
        self.pod_seconds += extra * (now - self._last)
        self._last = now
