"""Passes over a MoEDeployment on KubeRay's pods while nodes are cordoned and die."""

import json
from typing import Any

import pytest
from aiohttp import web
from fake_kube_ray import KubeRayBench
from fake_ray import ANSWERS_AT

from moe_contract.applications import API
from moe_contract.report import DirectoryReport, Progress, ShardReport
from moe_operator.api.names import ANNOTATION_DRAIN, child_labels
from moe_operator.api.status import TIME_FORMAT
from moe_operator.kube.api import Json
from moe_operator.kube.resources import (
    MOE_DEPLOYMENTS,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    RAY_CLUSTERS,
    RAY_SERVICES,
    Resource,
)
from moe_operator.runtimes.kube_ray.spread import APART_SECONDS

OOM = {"containerStatuses": [{"name": "ray-worker", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}


class OnNodes:
    """Four shards in pods ``p0`` to ``p3``, each on a node of its own, ``n0`` to ``n3``."""

    def __init__(self, bench: KubeRayBench) -> None:
        self.bench = bench
        self.grace: dict[str, int | None] = {}
        delete = bench.kube.delete

        async def noted(
            resource: Resource, namespace: str, name: str, uid: str, version: str | None, grace: int | None
        ) -> None:
            if resource == PODS:
                self.grace[name] = grace
            await delete(resource, namespace, name, uid, version, grace)

        bench.kube.delete = noted  # type: ignore[method-assign] # to see what is asked
        for index in range(4):
            self.node(f"n{index}")
            self.start(index, f"p{index}", f"n{index}")
        self.put_pod("a", "attention", "n0", "10.0.0.100")
        bench.directory.hosts[ANSWERS_AT] = "10.0.0.100"

    def node(self, name: str, ready: str = "True", **spec: Any) -> None:
        conditions = [{"type": "Ready", "status": ready}]
        metadata = {"name": name, "namespace": ""}
        self.bench.kube.put(NODES, {"metadata": metadata, "spec": spec, "status": {"conditions": conditions}})

    def put_pod(self, name: str, component: str, node: str, address: str) -> None:
        labels = {**child_labels("tiny", component), "ray.io/cluster": "tiny-1"}
        metadata = {"name": name, "namespace": "team", "labels": labels}
        running = {"startedAt": self.bench.today.strftime(TIME_FORMAT)}
        status = {
            "podIP": address,
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "ray-worker", "state": {"running": running}}],
        }
        self.bench.kube.put(PODS, {"metadata": metadata, "spec": {"nodeName": node}, "status": status})

    def evict(self, name: str) -> None:
        self.bench.kube.drop(PODS, name)

    def start(self, index: int, pod: str, node: str) -> None:
        """A shard runs in a new pod."""
        address = f"10.0.0.{pod[1:]}"
        self.put_pod(pod, "expert-shard", node, address)
        self.bench.directory.hosts[index] = address
        self.bench.directory.lost -= {index}

    def die(self, *indices: int) -> None:
        self.bench.directory.lost |= set(indices)

    @property
    def pods(self) -> set[str]:
        return {key[2] for key in self.bench.kube.objects if key[0] == PODS.plural and key[2].startswith(("p", "a"))}

    @property
    def wanted(self) -> list[int]:
        """Copies that each shard shall hold."""
        told = json.loads(self.bench.child(RAY_SERVICES)["spec"]["serveConfigV2"])["applications"]
        report = self.bench.directory(next(each for each in told if ".experts" not in each["name"]))
        assert report is not None
        return [shard.wanted for shard in report.shards]

    @property
    def least_apis(self) -> int:
        told = json.loads(self.bench.child(RAY_SERVICES)["spec"]["serveConfigV2"])["applications"]
        core = next(each for each in told if ".experts" not in each["name"])
        api = next(each for each in core["deployments"] if each["name"] == API)
        return int(api["autoscaling_config"]["min_replicas"])

    @property
    def conditions(self) -> set[str]:
        return {each["type"] for each in self.bench.kube.moe()["status"]["conditions"]}

    @property
    def budget(self) -> int:
        return self.budget_of("experts")

    def budget_of(self, role: str) -> int:
        return int(self.bench.child(POD_DISRUPTION_BUDGETS, f"tiny-moe-{role}")["spec"]["minAvailable"])


@pytest.fixture
async def on_nodes(kube_ray_bench: KubeRayBench) -> OnNodes:
    kube_ray_bench.apply(experts={"shards": 4, "slotsPerShard": 8})
    await kube_ray_bench.ready()
    there = OnNodes(kube_ray_bench)
    await kube_ray_bench.work(2, seconds=1.0)
    return there


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


@pytest.mark.parametrize(("watched", "budget"), [(True, 4), (False, 3)])
async def test_shards_that_hold_nothing_are_evicted_only_where_nodes_are_not_watched(
    on_nodes: OnNodes, watched: bool, budget: int
) -> None:
    """Which of the pods is evicted no budget knows; where nodes are watched, those are deleted here."""
    bench = on_nodes.bench
    if not watched:
        bench.objects.nodes.failed("forbidden", absent=False)
        bench.sees_nodes = False
    live = bench.kube.moe()
    annotations = {ANNOTATION_DRAIN: "1"}
    bench.kube.put(MOE_DEPLOYMENTS, {**live, "metadata": {**live["metadata"], "annotations": annotations}})
    await bench.work(3, seconds=1.0)
    assert (on_nodes.wanted[1], on_nodes.budget) == (0, budget)


async def test_no_pod_may_be_evicted_while_copies_are_loaded(on_nodes: OnNodes) -> None:
    bench = on_nodes.bench
    bench.change(experts={"shards": 4, "slotsPerShard": 8, "copies": {"min": 2}})
    await bench.work(3, seconds=1.0)
    assert on_nodes.budget == 3
    on_nodes.die(1)
    await bench.work(1, seconds=1.0)
    assert on_nodes.budget == 4
    on_nodes.start(1, "p9", "n2")
    await bench.work(2, seconds=1.0)
    assert on_nodes.budget == 3


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


@pytest.mark.parametrize(("status", "budget"), [(401, 1), (403, 1), (400, 1), (404, 2), (503, 2), (None, 2)])
async def test_a_report_that_is_not_to_be_had_keeps_no_pod_of_attention_for_ever(
    on_nodes: OnNodes, status: int | None, budget: int
) -> None:
    """Of attention nothing is known then; where the directory is away, attention may be, too."""
    bench = on_nodes.bench
    bench.change(attention={"minReplicas": 2, "maxReplicas": 2})
    await bench.work(2, seconds=1.0)
    assert on_nodes.budget_of("attention") == 2  # one answers

    async def answer(request: web.Request) -> web.StreamResponse:
        return await hangs_up(request) if status is None else web.Response(status=status, text="no report")

    bench.rays[0].override = answer
    await bench.work(3, seconds=1.0)
    assert on_nodes.budget_of("attention") == budget


async def test_of_two_nodes_that_are_drained_in_turn_the_second_takes_not_all_apis_with_it(on_nodes: OnNodes) -> None:
    bench, directory = on_nodes.bench, on_nodes.bench.directory
    bench.change(attention={"minReplicas": 2, "maxReplicas": 2})
    first, second, third = "10.0.0.100", "10.0.0.101", "10.0.0.102"
    on_nodes.put_pod("a2", "attention", "n1", second)
    directory.more, directory.apis = (second,), (first, second)
    await bench.work(2, seconds=1.0)
    assert (on_nodes.budget_of("attention"), on_nodes.least_apis) == (1, 2)
    # The first node is drained: Serve starts the api of its pod where there is room.
    on_nodes.evict("a")
    directory.hosts[ANSWERS_AT], directory.more, directory.apis = second, (), (second, second)
    await bench.work(2, seconds=1.0)
    assert (on_nodes.budget_of("attention"), on_nodes.least_apis) == (2, 2), "there is no other pod"
    on_nodes.put_pod("a3", "attention", "n0", third)
    directory.more = (third,)
    await bench.work(2, seconds=1.0)
    assert (on_nodes.budget_of("attention"), on_nodes.least_apis) == (2, 3), "an api is awaited in the other one"
    directory.apis = (second, second, third)
    await bench.work(2, seconds=1.0)
    assert (on_nodes.budget_of("attention"), on_nodes.least_apis) == (1, 3)
    directory.apis = (third, third)
    await bench.work(2, seconds=1.0)
    assert on_nodes.budget_of("attention") == 2
    await bench.work(2, seconds=APART_SECONDS)
    assert on_nodes.budget_of("attention") == 1, "a drain does not wait for ever"
    directory.answers = False
    await bench.work(1, seconds=1.0)
    assert on_nodes.least_apis == 3, "as it was told last"


async def test_where_one_replica_of_attention_is_enough_and_load_has_added_another_apis_come_apart_too(
    on_nodes: OnNodes,
) -> None:
    bench, directory = on_nodes.bench, on_nodes.bench.directory
    bench.change(attention={"minReplicas": 1, "maxReplicas": 2})
    first, second = "10.0.0.100", "10.0.0.101"
    directory.apis = (first, first)
    await bench.work(2, seconds=1.0)
    assert (on_nodes.budget_of("attention"), on_nodes.least_apis) == (0, 2), "there is no other pod"
    on_nodes.put_pod("a2", "attention", "n1", second)
    directory.more = (second,)
    await bench.work(2, seconds=1.0)
    assert (on_nodes.budget_of("attention"), on_nodes.least_apis) == (2, 3)
    directory.apis = (first, first, second)
    await bench.work(2, seconds=1.0)
    assert (on_nodes.budget_of("attention"), on_nodes.least_apis) == (0, 3)


@pytest.mark.parametrize("heard", [True, False])
async def test_of_a_data_plane_that_does_not_tell_where_apis_run_the_spec_alone_counts(
    on_nodes: OnNodes, heard: bool
) -> None:
    bench = on_nodes.bench
    bench.change(api={"minReplicas": 3, "maxReplicas": 4})
    await bench.work(2, seconds=1.0)
    assert on_nodes.least_apis == 3
    bench.change(api={"minReplicas": 2, "maxReplicas": 4})
    await bench.work(2, seconds=1.0)
    assert on_nodes.least_apis == 2
    # What others write is put back: in view of a report, or of what was written last, also while there is no report.
    bench.directory.answers = heard
    live = bench.child(RAY_SERVICES)["spec"]["serveConfigV2"]
    assert '"min_replicas":2' in live
    bench.edit(RAY_SERVICES, "tiny", serveConfigV2=live.replace('"min_replicas":2', '"min_replicas":4'))
    await bench.work(3, seconds=1.0)
    assert on_nodes.least_apis == 2


async def test_what_others_wrote_of_apis_is_put_back_while_a_directory_begins_to_tell_of_them(
    on_nodes: OnNodes,
) -> None:
    bench = on_nodes.bench
    tell = bench.directory.__call__

    def of_today(config: Json) -> DirectoryReport | None:
        told = tell(config)
        return told and told.model_copy(update={"contract": 2})

    bench.rays[0].report = of_today
    await bench.work(2, seconds=1.0)
    live = bench.child(RAY_SERVICES)["spec"]["serveConfigV2"]
    bench.edit(RAY_SERVICES, "tiny", serveConfigV2=live.replace('"min_replicas":2', '"min_replicas":4'))
    await bench.work(3, seconds=1.0)
    assert on_nodes.least_apis == 2


async def away(request: web.Request) -> web.StreamResponse:
    return web.Response(status=503, text="no report")


async def test_a_drain_does_not_wait_for_ever_for_a_directory_that_is_away(on_nodes: OnNodes) -> None:
    """Not even where the operator, which waits, is restarted."""
    bench = on_nodes.bench
    bench.change(
        experts={"shards": 4, "slotsPerShard": 8, "copies": {"min": 2}},
        attention={"minReplicas": 2, "maxReplicas": 2},
    )
    on_nodes.put_pod("a2", "attention", "n1", "10.0.0.101")
    await bench.work(3, seconds=1.0)
    budgets = [on_nodes.budget_of(role) for role in ("attention", "experts")]
    assert budgets[1] == 3
    bench.rays[0].override = away
    await bench.work(2, seconds=1.0)
    bench.restart()
    await bench.work(4, seconds=70.0)
    assert [on_nodes.budget_of(role) for role in ("attention", "experts")] == [2, 4]
    assert "EvictionsAllowed" not in on_nodes.conditions
    await bench.work(2, seconds=30.0)
    assert [on_nodes.budget_of(role) for role in ("attention", "experts")] == [1, 3]
    assert bench.condition("EvictionsAllowed") == "True EvictionsOpened"
    assert "EvictionsOpened" in bench.kube.reasons()
    # Each has a successor that is ready, and that nobody has told anything: the others are the last that answer.
    on_nodes.evict("p0")
    on_nodes.evict("a")
    on_nodes.put_pod("p9", "expert-shard", "n2", "10.0.0.9")
    on_nodes.put_pod("a3", "attention", "n2", "10.0.0.102")
    bench.restart()
    await bench.work(2, seconds=30.0)
    assert [on_nodes.budget_of(role) for role in ("attention", "experts")] == [2, 4]
    assert bench.condition("EvictionsAllowed") == "False LastCopiesKept"
    bench.rays[0].override = None
    await bench.work(2, seconds=30.0)
    assert "EvictionsAllowed" not in on_nodes.conditions
    assert (
        "moe-operator.io/untold-since"
        not in bench.child(POD_DISRUPTION_BUDGETS, "tiny-moe-experts")["metadata"]["annotations"]
    )


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


async def hangs_up(request: web.Request) -> web.StreamResponse:
    """As if nobody were there."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


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
