"""What an operator of a cluster does to a MoEDeployment under load, and what it costs those who are being served."""

import time

import pytest
from deployed import NAME, SHARD, SHARDS, SYSTEM, Deployed
from figures import Figures

from moe_dev.helm import CHART, Helm

pytestmark = [pytest.mark.whole, pytest.mark.node]

# Bounds on a busy machine; what is promised stands beside the figure.
LOST_SECONDS, PODS_SECONDS, MOVED_SECONDS = 120.0, 120.0, 120.0


def test_with_a_spare_a_lost_shard_serves_again_at_once(deployed: Deployed, figures: Figures) -> None:
    deployed.wait_whole()
    with_shards = sorted(deployed.pods(SHARD))
    spares(deployed, 1)
    try:
        # Ready is a pod with a proxy of Serve's, which runs beside what Serve runs: a spare never is.
        deployed.objects.wait("a spare pod", lambda: deployed.running_pods(SHARD) == SHARDS + 1, PODS_SECONDS)
        with deployed.traffic() as traffic:
            figures.add(
                "a shard's pod lost with a spare, until it serves again",
                deployed.lose_shard(with_shards[0], LOST_SECONDS),
                8,
            )
            traffic.flow()
    finally:
        spares(deployed, 0)
    traffic.check("a shard's pod force-deleted, with a spare")


def spares(deployed: Deployed, number: int) -> None:
    deployed.patch(runtime={"kubeRay": {"expertWorkers": {"spares": number}}})


def test_an_operator_is_upgraded_and_rolled_back_without_a_word_to_what_serves(
    deployed: Deployed, operator: Helm, figures: Figures
) -> None:
    deployed.wait_whole()
    pods = deployed.lives()
    with deployed.traffic() as traffic:
        begun = time.monotonic()
        values = ["--reuse-values", "--set", "operator.workers=8", "--wait", "--timeout=120s"]
        operator.run("upgrade", "moe-operator", str(CHART), "-n", SYSTEM, *values, timeout=130.0)
        settled(deployed)
        operator.run("rollback", "moe-operator", "-n", SYSTEM, "--wait", "--timeout=120s", timeout=130.0)
        settled(deployed)
        figures.add("the operator upgraded and rolled back", time.monotonic() - begun)
        traffic.flow()
    assert deployed.lives() == pods
    traffic.check("operator upgraded and rolled back")


def test_a_placement_written_by_hand_moves_experts_and_no_pod(deployed: Deployed, figures: Figures) -> None:
    """With four shards: of two with two copies each holds all experts, and there is nothing to move."""
    deployed.wait_whole()
    deployed.objects.scale(NAME, 2 * SHARDS)
    try:
        deployed.objects.wait("four shards", lambda: deployed.placement().get("shards") == 2 * SHARDS, PODS_SECONDS)
        deployed.objects.wait_settled(NAME, generation(deployed), PODS_SECONDS)
        deployed.wait_whole(2 * SHARDS)
        pods, cluster = deployed.lives(), deployed.cluster()
        with deployed.traffic() as traffic:
            begun = time.monotonic()
            name = deployed.rotate_placement()
            deployed.objects.approve(name)
            deployed.objects.wait_active(name, MOVED_SECONDS)
            figures.add("a placement written by hand, until it is in force", time.monotonic() - begun)
            traffic.flow()
        assert deployed.objects.placement(name)["status"]["price"]["moves"] > 0
        assert (deployed.lives(), deployed.cluster()) == (pods, cluster)
    finally:
        deployed.objects.scale(NAME, SHARDS)
    traffic.check("a placement's revision")
    deployed.wait_whole()


def settled(deployed: Deployed) -> None:
    """A change of the spec that costs nothing was read by the operator that works now."""
    before = generation(deployed)
    deployed.patch(rebalance={"historyLimit": before % 5 + 5})
    deployed.objects.wait_settled(NAME, before + 1)


def generation(deployed: Deployed) -> int:
    return int((deployed.objects.get(NAME) or {})["metadata"]["generation"])
