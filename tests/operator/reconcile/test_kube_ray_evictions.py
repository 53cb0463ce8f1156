"""Passes over a MoEDeployment on KubeRay's pods: how many of them others may evict, and how many apis run in them."""

import pytest
from aiohttp import web
from fake_ray import ANSWERS_AT
from on_nodes import OnNodes, hangs_up

from moe_contract.report import DirectoryReport
from moe_operator.api.names import ANNOTATION_DRAIN
from moe_operator.kube.api import Json
from moe_operator.kube.resources import MOE_DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, RAY_SERVICES
from moe_operator.runtimes.kube_ray.spread import APART_SECONDS


async def away(request: web.Request) -> web.StreamResponse:
    return web.Response(status=503, text="no report")


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


async def test_of_two_shards_pods_none_follows_the_other_before_a_spare_has_its_experts(on_nodes: OnNodes) -> None:
    """What was evicted answers for a while, and the spare turns ready with its shard before experts are there."""
    bench = on_nodes.bench
    bench.change(experts={"shards": 4, "slotsPerShard": 8, "copies": {"min": 2}})
    on_nodes.put_pod("p9", "expert-shard", "n2", "10.0.0.9")
    await bench.work(3, seconds=1.0)
    assert on_nodes.budget == 3
    pod = bench.child(PODS, "p0")
    ends = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["for as long as its containers run"]}
    bench.kube.put(PODS, {**pod, "metadata": {**pod["metadata"], **ends}})
    await bench.work(1, seconds=1.0)
    assert bench.condition("Ready") == "True Available", "its shard answers still"
    assert on_nodes.budget == 4
    on_nodes.evict("p0")
    bench.directory.hosts[0] = "10.0.0.9"
    await bench.work(2, seconds=1.0)
    assert on_nodes.budget == 3


async def test_apis_that_load_needs_are_not_stopped_each_time_one_is_started_elsewhere(on_nodes: OnNodes) -> None:
    bench, directory = on_nodes.bench, on_nodes.bench.directory
    bench.change(attention={"minReplicas": 2, "maxReplicas": 2}, api={"minReplicas": 2, "maxReplicas": 4})
    first, second = "10.0.0.100", "10.0.0.101"
    on_nodes.put_pod("a2", "attention", "n1", second)
    directory.more = (second,)
    least = []
    for apis in ((first,) * 3 + (second,), (first,) * 3, (first,) * 3 + (second,)):
        directory.apis = apis
        await bench.work(2, seconds=1.0)
        least.append(on_nodes.least_apis)
    assert least == [2, 4, 4], "Serve stopped none but the one in the emptier pod: load needs the others"
    directory.apis = (first, first, second)
    await bench.work(2, seconds=1.0)
    assert on_nodes.least_apis == 3, "one of them was being stopped"
    directory.apis = (first,) * 3 + (second,)
    await bench.work(2, seconds=1.0)
    assert on_nodes.least_apis == 2


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
