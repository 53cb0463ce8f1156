"""Passes over a MoEDeployment on KubeRay's pods while nodes are cordoned and die."""

import pytest
from aiohttp import web
from fake_ray import ANSWERS_AT
from on_nodes import OnNodes, hangs_up

from moe_contract.report import DirectoryReport, Progress, ShardReport
from moe_operator.kube.api import Json
from moe_operator.kube.resources import NODES, PODS, RAY_CLUSTERS

OOM = {"containerStatuses": [{"name": "ray-worker", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}


async def test_the_shard_of_a_cordoned_node_is_emptied_its_pod_goes_and_it_comes_back_elsewhere(
    on_nodes: OnNodes,
) -> None:
    bench, all_hold = on_nodes.bench, on_nodes.wanted
    assert (min(all_hold) > 0, on_nodes.budget) == (True, 4)
    on_nodes.node("n1", unschedulable=True)
    await bench.work(1, seconds=1.0)
    assert on_nodes.wanted[1] == 0
    assert "p1" in on_nodes.pods  # it is told first, and looked at again
    await bench.work(1, seconds=1.0)
    assert on_nodes.pods == {"p0", "p2", "p3", "a"}
    assert on_nodes.grace == {"p1": None}
    assert bench.condition("Drained") == "True Drained"
    on_nodes.die(1)
    await bench.work(3, seconds=1.0)
    assert (on_nodes.wanted[1], bench.condition("Ready")) == (0, "True Available")
    assert bench.condition("Degraded") == "False AsExpected"
    on_nodes.start(1, "p9", "n2")
    await bench.work(3, seconds=1.0)
    assert min(on_nodes.wanted) > 0
    assert "Drained" not in on_nodes.conditions
    assert on_nodes.pods == {"p0", "p2", "p3", "p9", "a"}


async def test_a_cordon_that_is_taken_back_takes_the_drain_back(on_nodes: OnNodes) -> None:
    bench = on_nodes.bench
    on_nodes.node("n1", unschedulable=True)
    await bench.work(1, seconds=1.0)
    on_nodes.node("n1")
    await bench.work(2, seconds=1.0)
    assert (min(on_nodes.wanted) > 0, on_nodes.grace) == (True, {})


async def test_where_the_others_lack_room_nothing_goes_and_it_is_told(on_nodes: OnNodes) -> None:
    bench = on_nodes.bench
    bench.change(experts={"shards": 4, "slotsPerShard": 8, "copies": {"min": 4}})
    await bench.work(3, seconds=1.0)
    for index in range(4):
        on_nodes.node(f"n{index}", unschedulable=True)
    await bench.work(3, seconds=1.0)
    assert (min(on_nodes.wanted) > 0, on_nodes.grace) == (True, {})
    assert bench.condition("Drained") == "False DrainRefused"
    assert "shards 0, 1, 2, 3 must leave a node that goes away" in on_nodes.bench.message("Drained")


async def test_of_a_node_with_more_shards_than_the_others_have_room_for_some_go_first(on_nodes: OnNodes) -> None:
    """As of two nodes the second that is drained, with all on it since the first was."""
    bench = on_nodes.bench
    bench.change(experts={"shards": 4, "slotsPerShard": 8, "copies": {"min": 2}})
    for index in range(4):
        on_nodes.put_pod(f"p{index}", "expert-shard", "n0", f"10.0.0.{index}")
    await bench.work(3, seconds=1.0)
    on_nodes.node("n0", unschedulable=True)
    await bench.work(2, seconds=1.0)
    assert ([copies > 0 for copies in on_nodes.wanted], on_nodes.grace) == (
        [False, False, True, True],
        {"p0": None, "p1": None},
    )
    assert bench.condition("Drained") == "False Draining"
    on_nodes.die(0, 1)
    await bench.work(3, seconds=1.0)
    assert on_nodes.pods == {"p2", "p3", "a"}
    on_nodes.start(0, "p8", "n1")
    on_nodes.start(1, "p9", "n2")
    await bench.work(4, seconds=1.0)
    assert on_nodes.pods == {"p8", "p9", "a"}
    on_nodes.die(2, 3)
    on_nodes.start(2, "p6", "n1")
    on_nodes.start(3, "p7", "n2")
    await bench.work(4, seconds=1.0)
    assert min(on_nodes.wanted) > 0
    assert "Drained" not in on_nodes.conditions


async def test_nodes_that_are_watched_no_more_are_believed_no_more(on_nodes: OnNodes) -> None:
    bench = on_nodes.bench
    on_nodes.node("n1", unschedulable=True)
    on_nodes.node("n2", ready="Unknown")
    bench.watch()
    bench.objects.nodes.failed("forbidden", absent=False)
    bench.sees_nodes = False
    on_nodes.die(2)
    await bench.work(6, seconds=4.0)
    assert (min(on_nodes.wanted) > 0, on_nodes.grace) == (True, {})


async def test_a_dead_node_is_repaired_and_its_pods_are_removed_by_force(on_nodes: OnNodes) -> None:
    bench = on_nodes.bench
    on_nodes.die(2)
    await bench.work(3, seconds=1.0)
    assert (on_nodes.wanted[2] > 0, on_nodes.grace) == (True, {})  # Ray starts it anew
    on_nodes.node("n2", ready="Unknown")
    await bench.work(3, seconds=4.0)
    assert (on_nodes.wanted[2], on_nodes.grace) == (0, {})
    await bench.work(1, seconds=4.0)
    assert (on_nodes.wanted[2], on_nodes.grace) == (0, {"p2": 0})
    assert bench.condition("Ready") == "True Available"


async def test_what_answers_on_a_node_that_is_not_heard_of_is_emptied_and_not_removed(on_nodes: OnNodes) -> None:
    on_nodes.node("n2", ready="Unknown")
    await on_nodes.bench.work(10, seconds=4.0)
    assert (on_nodes.wanted[2], on_nodes.grace) == (0, {})


@pytest.mark.parametrize("heard", [False, True])
async def test_a_head_that_cannot_be_asked_is_removed_only_where_other_nodes_are_heard(
    on_nodes: OnNodes, heard: bool
) -> None:
    """As where the control plane is cut off from all nodes, while clients are served."""
    bench = on_nodes.bench
    head = bench.child(PODS, "tiny-1-head")
    bench.kube.put(PODS, {**head, "spec": {"nodeName": "n0"}})
    for index in range(4):
        on_nodes.node(f"n{index}", ready="True" if heard and index == 3 else "Unknown")
    bench.rays[0].override = hangs_up
    await bench.work(25, seconds=1.0)
    assert on_nodes.grace == ({"tiny-1-head": 0} if heard else {})


@pytest.mark.parametrize(("status", "node"), [(200, "off"), (401, "Unknown"), (404, "off"), (503, "Unknown")])
async def test_a_head_that_answers_with_an_error_lives(on_nodes: OnNodes, status: int, node: str) -> None:
    """As where the operator's key is another one there: nothing is removed for that."""
    bench = on_nodes.bench
    head = bench.child(PODS, "tiny-1-head")
    bench.kube.put(PODS, {**head, "spec": {"nodeName": "n1"}})
    if node == "off":
        bench.kube.drop(NODES, "n1", "")
    else:
        on_nodes.node("n1", ready=node)

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="no report")

    bench.rays[0].override = answer
    await bench.work(25, seconds=1.0)
    assert on_nodes.grace == {}
    bench.rays[0].override = hangs_up
    await bench.work(14, seconds=1.0)
    assert on_nodes.grace == {"tiny-1-head": 0}


async def test_a_directory_that_looks_at_its_model_for_long_costs_no_pod(on_nodes: OnNodes) -> None:
    """One that was restarted, with shards from which attention answers."""
    bench = on_nodes.bench
    bench.change(experts={"shards": 4, "slotsPerShard": 8, "copies": {"min": 2}})
    await bench.work(3, seconds=1.0)
    assert on_nodes.budget == 3
    for index in range(1, 4):
        on_nodes.node(f"n{index}", unschedulable=True)
    tell = bench.directory.__call__

    def looks(config: Json) -> DirectoryReport | None:
        told = tell(config)
        assert told is not None
        shards = tuple(ShardReport(index=shard.index, phase="Starting") for shard in told.shards)
        return told.model_copy(
            update={"model": None, "shards": shards, "progress": Progress(copied=0, total=0, settled=False)}
        )

    bench.rays[0].report = looks
    await bench.work(16, seconds=1.0)
    assert (on_nodes.grace, on_nodes.budget) == ({}, 4)


async def test_a_directory_that_was_restarted_and_has_heard_of_nobody_yet_removes_nothing(on_nodes: OnNodes) -> None:
    bench = on_nodes.bench
    for index in range(1, 4):
        on_nodes.node(f"n{index}", ready="Unknown")
    hosts, bench.directory.hosts = bench.directory.hosts, {ANSWERS_AT: "10.0.0.100"}
    on_nodes.die(*range(4))
    await bench.work(2, seconds=5.0)
    bench.directory.hosts, bench.directory.lost = hosts, frozenset()
    await bench.work(5, seconds=5.0)
    assert on_nodes.grace == {}


async def test_a_pod_whose_node_was_removed_goes_once_it_does_not_answer(on_nodes: OnNodes) -> None:
    bench = on_nodes.bench
    bench.kube.drop(NODES, "n3", "")
    await bench.work(2, seconds=1.0)
    assert on_nodes.grace == {}
    on_nodes.die(3)
    await bench.work(4, seconds=4.0)
    assert on_nodes.grace == {"p3": 0}


async def test_while_suspended_no_pod_goes(on_nodes: OnNodes) -> None:
    on_nodes.bench.change(suspend=True)
    on_nodes.node("n1", unschedulable=True)
    on_nodes.node("n2", ready="Unknown")
    on_nodes.die(2)
    await on_nodes.bench.work(8, seconds=4.0)
    assert on_nodes.grace == {}


async def test_without_nodes_all_works_and_it_is_told(on_nodes: OnNodes) -> None:
    bench = on_nodes.bench
    assert on_nodes.bench.message("RuntimeReachable") == "KubeRay runs RayService team/tiny"
    bench.objects.nodes.failed("the operator is installed for single namespaces", absent=False)
    bench.sees_nodes = False
    await bench.work(2, seconds=31.0)
    assert on_nodes.bench.message("RuntimeReachable").endswith(
        "; nodes are not watched, so that none is drained by itself: the operator is installed for single namespaces"
    )
    assert bench.condition("Ready") == "True Available"


async def test_that_a_pod_ran_out_of_memory_is_told_though_another_has_taken_its_place(on_nodes: OnNodes) -> None:
    bench = on_nodes.bench
    pod = bench.child(PODS, "p1")
    bench.kube.put(PODS, {**pod, "status": {"phase": "Failed", **OOM}})
    bench.watch()
    bench.kube.drop(PODS, "p1")
    on_nodes.die(1)
    await bench.work(1, seconds=1.0)
    assert bench.condition("Degraded") == "True OutOfMemory"
    assert on_nodes.bench.message("Degraded").startswith("pod p1 container ray-worker ended: OOMKilled")
    assert bench.condition("Ready") == "True Available"


async def test_what_a_quota_forbids_is_told(on_nodes: OnNodes) -> None:
    bench = on_nodes.bench
    failure: Json = {
        "type": "ReplicaFailure",
        "status": "True",
        "message": 'FailedCreateWorkerPod\npods "x" is forbidden: exceeded quota: small, requested: pods=1',
    }
    cluster = bench.child(RAY_CLUSTERS, "tiny-1")
    bench.kube.put(RAY_CLUSTERS, {**cluster, "status": {"conditions": [failure]}})
    await bench.work(1, seconds=1.0)
    assert bench.condition("Degraded") == "True QuotaExceeded"
    assert "exceeded quota: small, requested: pods=1" in on_nodes.bench.message("Degraded")
