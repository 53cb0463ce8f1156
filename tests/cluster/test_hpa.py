"""Shards become more and fewer under load by a HorizontalPodAutoscaler, which goes by what their pods measure."""

import json
import time
from pathlib import Path

import pytest
from deployed import NAME, SHARD, SHARDS, Deployed
from figures import Figures
from hpa import by_pods, of_pods
from metrics_server import served

from moe_dev.node import network

pytestmark = [pytest.mark.whole, pytest.mark.node]

MOST = 2 * SHARDS
# Of its time, that a shard is to be busy: less than it is while it answers anybody, and more than it can be.
LITTLE, MUCH = "1m", "10"
# Bounds on a busy machine; what is promised stands beside the figure. Kubernetes' controller looks each 15 s.
DECIDED_SECONDS, MORE_SECONDS, FEWER_SECONDS = 120.0, 120.0, 180.0


class Busy:
    """How busy the shards of pods were since each was looked at before, as their processes count it."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        # {address of a pod: (microseconds it was busy, of microseconds)}, as of the last look.
        self._known: dict[str, tuple[int, int]] = {}

    def thousandths(self, selector: str) -> dict[str, int]:
        """{pod that the selector finds: how busy it was}; those that were not looked at before are left out."""
        where = ("-n", self._deployed.namespace, "-l", selector, "-o", "json")
        pods = json.loads(self._deployed.nodes.kubectl.run("get", "pods", *where))["items"]
        names = {pod["status"].get("podIP"): pod["metadata"]["name"] for pod in pods}
        found = {}
        for shard in self._deployed.directory()().shards:
            busy, served = self._known.get(shard.host, (0, 0))
            self._known[shard.host] = (shard.busy_us, shard.served_us)
            if shard.host in names and 0 < served < shard.served_us:
                found[names[shard.host]] = 1000 * (shard.busy_us - busy) // (shard.served_us - served)
        return found


def test_shards_become_more_and_fewer_by_an_hpa_that_goes_by_their_pods(
    deployed: Deployed, figures: Figures, tmp_path: Path
) -> None:
    kubectl, namespace, wait = deployed.nodes.kubectl, deployed.namespace, deployed.objects.wait

    def decided(busy: str, shards: int) -> float:
        """When the HPA had written so many."""
        kubectl.apply(by_pods(NAME, SHARDS, MOST, busy), namespace=namespace)
        wait(f"{shards} to be wanted", lambda: deployed.shards_wanted() == shards, DECIDED_SECONDS)
        return time.monotonic()

    deployed.wait_whole()
    others = set(deployed.pods(SHARD))
    metrics = of_pods(namespace, Busy(deployed).thousandths)
    with served(kubectl, namespace, tmp_path / "metrics", metrics, str(network.HOST)):
        try:
            with deployed.traffic() as traffic:
                begun = decided(LITTLE, MOST)
                wait("four to serve", lambda: deployed.ready_shards() == MOST, MORE_SECONDS)
                figures.add("2 to 4 shards by an HPA, until four serve", time.monotonic() - begun, 30)
                traffic.flow()
                begun = decided(MUCH, SHARDS)
                wait("two pods to go", lambda: len(deployed.pods(SHARD)) == SHARDS, FEWER_SECONDS)
                figures.add("4 to 2 shards by an HPA, until the pods are gone", time.monotonic() - begun, 60)
                assert others == set(deployed.pods(SHARD)), "pods went that had a shard which stayed"
                traffic.flow()
            traffic.check("2 to 4 to 2 shards by an HPA")
        except BaseException:
            print(json.dumps((kubectl.get("hpa", NAME, namespace) or {}).get("status"), indent=1))
            raise
        finally:
            kubectl.run("delete", "hpa", NAME, "-n", namespace, "--ignore-not-found")
            deployed.objects.scale(NAME, SHARDS)
