"""The directory's loop with shards that are plain objects and a clock that is set by hand."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import threading

import numpy as np
import pytest
from scene import EXPERTS, FACTS, LAYERS, MODEL, FakeShard, Scene

from moe_contract.applications import ModelArgs
from moe_contract.model import ModelFacts
from moe_contract.report import Fetched
from moe_placement import balanced_placement
from moe_placement.encoding import decode_counts, decode_placement, encode_placement
from moe_serving.checkpoint import ModelError
from moe_serving.directory import directory
from moe_serving.directory.directory import HEARING_SECONDS, Directory
from moe_serving.directory.errors import ShardGoneError
from moe_serving.directory.leases import LEASE_SECONDS
from moe_serving.directory.messages import AttentionStatus, StatisticsReport, SyncRequest
from moe_serving.directory.monitor import FORGOTTEN_SECONDS, LOST_SECONDS
from moe_serving.experts.description import CHECKPOINT, Loading, ShardDescription
from moe_serving.routing.exchange import StatisticsKnown, StatisticsTold
from moe_serving.routing.gatherer import Gathered
from moe_serving.routing.table import TableVersion
from moe_serving.routing.window import Window

WORKED = {"busy_us": 7, "served_us": 9}


async def test_a_placement_is_carried_out(scene: Scene) -> None:
    report = scene.directory.report()
    assert (report.term, report.revision, report.refused, report.model) == (1, 1, None, FACTS)
    assert [(shard.phase, shard.held, shard.wanted, shard.pid) for shard in report.shards] == [
        ("Ready", 4, 4, 100),
        ("Ready", 4, 4, 101),
        ("Ready", 0, 0, 102),
    ]
    assert (report.progress.copied, report.progress.total) == (8, 8)
    assert report.placement is not None
    assert (decode_placement(report.placement).held == balanced_placement(LAYERS, EXPERTS, [2, 2, 0], 1).held).all()
    assert [(a.replica, a.ready, a.epoch, a.running, a.pid) for a in report.attention] == [
        ("a", True, report.epoch, 2, 7)
    ]


async def test_a_move_comes_from_a_neighbour_and_what_came_is_reported(scene: Scene) -> None:
    assert all(order.urgent and order.sources == (CHECKPOINT,) for order in scene.shards[0].orders)
    before = [await shard.describe(None, 0) for shard in scene.shards]
    scene.place(balanced_placement(LAYERS, EXPERTS, [0, 2, 2], 1))
    await scene.turns(4)
    assert scene.shards[2].orders
    for order in scene.shards[2].orders:
        assert not order.urgent
        (holder,) = (said for said in before if said.held is not None and said.held[order.key])
        assert order.sources == (holder.address, CHECKPOINT)
    scene.shards[2].counts = {"from_peers": 32, "from_checkpoint": 8, "refused": 1, "damaged": 2} | WORKED
    await scene.turns(1)
    (shard,) = scene.directory.report().shards[2:]
    assert (shard.from_peers, shard.from_checkpoint, shard.refused, shard.damaged) == (32, 8, 1, 2)
    assert {"busy_us": shard.busy_us, "served_us": shard.served_us} == WORKED


async def test_old_copies_wait_for_the_acknowledgement(scene: Scene) -> None:
    goal = balanced_placement(LAYERS, EXPERTS, [0, 2, 2], 1)
    scene.place(goal)
    await scene.turns(4, sync=False)
    assert scene.shards[0].held.any(), "the replica still routes to them"
    assert not scene.directory.report().progress.settled
    await scene.turns(3)
    assert not scene.shards[0].held.any()
    assert scene.directory.report().progress.settled


async def test_a_replica_that_fell_silent_holds_nobody_up(scene: Scene) -> None:
    scene.place(balanced_placement(LAYERS, EXPERTS, [0, 2, 2], 1))
    await scene.turns(4, sync=False)
    scene.now += LEASE_SECONDS
    await scene.turns(1, sync=False)
    assert not scene.shards[0].held.any()
    assert scene.directory.report().attention == ()


async def test_a_restarted_shard_gets_its_own_experts_back(scene: Scene) -> None:
    scene.shards[0].start()
    await scene.turns(3)
    assert scene.shards[0].held.sum() == 4
    assert scene.directory.report().progress.settled
    assert scene.table is not None
    assert scene.table.shards[0].incarnation == scene.shards[0].incarnation


async def test_a_silent_shard_is_lost_but_stays_in_the_table_for_a_while(scene: Scene) -> None:
    scene.shards[0].fault = TimeoutError()
    scene.now += LOST_SECONDS
    await scene.turns(1)
    report = scene.directory.report()
    assert (report.shards[0].phase, report.shards[0].held) == ("Lost", 0)
    assert scene.table is not None
    assert scene.table.complete
    scene.now += FORGOTTEN_SECONDS
    await scene.turns(2)
    assert not scene.table.complete
    scene.shards[0].fault = None
    await scene.turns(1)
    assert scene.table.complete


@pytest.mark.parametrize("digest", [FACTS.digest, "sha256:other", None])
async def test_a_shard_that_comes_back_with_a_model_of_another_shape(scene: Scene, digest: str | None) -> None:
    """It is not used, and the directory goes on, whatever it says that it loads."""
    shard = scene.shards[0]
    shard.start()
    shard.digest, shard.held = digest, np.ones((1, 9), dtype=bool)
    describe = shard.describe

    async def loading(known: str | None, hold: float) -> ShardDescription:
        return dataclasses.replace(await describe(known, hold), loading=Loading(((7, 99),)))

    shard.describe = loading  # type: ignore[method-assign]
    await scene.turns(3)
    report = scene.directory.report().shards[0]
    assert report.held == 0
    assert report.problem is not None
    assert "another checkpoint at the model's path" in report.problem


async def test_a_dead_shard_leaves_the_table_at_once(scene: Scene) -> None:
    scene.shards[0].fault = ShardGoneError("its process has ended")
    await scene.turns(1)
    assert scene.table is not None
    assert [shard.index for shard in scene.table.shards] == [1]
    assert scene.directory.report().shards[0].phase == "Lost"
    assert scene.directory.report().placement is None


async def test_a_shard_with_another_checkpoint_is_not_used(scene: Scene) -> None:
    scene.shards[0].digest = "sha256:other"
    await scene.turns(1)
    assert scene.table is not None
    assert [shard.index for shard in scene.table.shards] == [1]
    assert "another checkpoint" in (scene.directory.report().shards[0].problem or "")


async def test_a_shard_that_holds_experts_otherwise_is_not_used(scene: Scene) -> None:
    """Answers would be partly FP8's, and their fingerprint would not say so."""
    scene.shards[0].weights = "FP8"
    await scene.turns(1)
    assert scene.table is not None
    assert [shard.index for shard in scene.table.shards] == [1]
    assert "holds experts as FP8, and the directory is told Checkpoint" in (
        scene.directory.report().shards[0].problem or ""
    )


async def test_a_replica_with_another_checkpoint_is_not_ready(scene: Scene) -> None:
    for digest, ready in ((FACTS.digest, True), ("sha256:other", False), (None, True)):
        status = AttentionStatus(ready=True, digest=digest)
        reply = await scene.directory.sync(SyncRequest("a", scene.version, 0, None, status))
        assert reply.digest == FACTS.digest
        (replica,) = scene.directory.report().attention
        assert replica.ready is ready
        assert ("another checkpoint" in (replica.problem or "")) is not ready


async def test_too_little_room_is_told(scene: Scene) -> None:
    scene.shards[2].capacity = 2
    scene.place(balanced_placement(LAYERS, EXPERTS, [0, 2, 2], 1))
    await scene.turns(3)
    assert scene.shards[2].held.sum() == 2
    assert "it may hold 2 experts, the placement gives it 4" in (scene.directory.report().shards[2].problem or "")


async def test_after_a_restart_the_directory_asks_the_shards(scene: Scene) -> None:
    before = scene.version
    await scene.restart_directory()
    await scene.turns(2)
    assert scene.version.epoch > before.epoch
    assert scene.version.origin != before.origin
    assert scene.directory.report().progress.settled


async def test_a_new_directory_publishes_nothing_before_it_has_heard_all_shards(scene: Scene) -> None:
    """Replicas keep the table of its predecessor; one without live shards would stop them."""
    before = scene.table
    scene.directory = scene.new_directory()
    await scene.directory.inspect_model()
    await scene.turns(2)
    assert scene.table is before, "it has not even been told which shards there are"
    scene.shards[0].fault = TimeoutError()
    scene.directory.configure(scene.config)
    await scene.turns(2)
    assert scene.table is before
    scene.now += HEARING_SECONDS
    await scene.turns(1)
    assert scene.table is not None
    assert [shard.index for shard in scene.table.shards] == [1], "shard 0 is not waited for any longer"


async def test_a_new_directory_frees_nothing_that_a_predecessors_table_may_name(scene: Scene) -> None:
    scene.place(balanced_placement(LAYERS, EXPERTS, [0, 2, 2], 1))
    await scene.restart_directory()
    await scene.turns(4, sync=False)
    assert scene.shards[2].held.sum() == 4
    assert scene.shards[0].held.any(), "a replica that has not reported yet may route to them"
    scene.now += LEASE_SECONDS
    await scene.turns(3)
    assert not scene.shards[0].held.any()


async def test_what_is_refused_is_told_and_the_old_target_stays(scene: Scene) -> None:
    scene.directory.configure({**scene.config, "term": 0, "revision": 99})
    report = scene.directory.report()
    assert "term: 0 is older than 1" in (report.refused or "")
    assert report.revision == 1
    scene.place(balanced_placement(LAYERS, EXPERTS + 1, [3, 2, 2], 1))
    assert "the model has 2 of 4" in (scene.directory.report().refused or "")
    scene.directory.configure("nonsense")
    assert "malformed" in (scene.directory.report().refused or "")
    await scene.turns(2)
    assert scene.directory.report().progress.settled
    scene.directory.configure(scene.config | {"placement": encode_placement(balanced_placement(2, 4, [2, 2, 0], 1))})
    assert scene.directory.report().refused is None


async def test_a_placement_of_another_model_of_the_same_shape_is_refused(scene: Scene) -> None:
    scene.directory.configure({**scene.config, "revision": 2, "model_digest": "sha256:another"})
    refused = scene.directory.report().refused or ""
    assert "model_digest: revision 2 is for the experts of sha256:another, the model is sha256:d" in refused
    assert scene.directory.report().revision == 1
    scene.directory.configure({**scene.config, "revision": 2, "model_digest": FACTS.digest})
    assert (scene.directory.report().refused, scene.directory.report().revision) == (None, 2)


@pytest.mark.parametrize("inspected_first", [False, True])
async def test_what_was_told_before_another_checkpoint_came_under_the_path_goes_on(
    scene: Scene, inspected_first: bool
) -> None:
    """As in a second cluster of an upgrade, which is told nothing new until it serves."""
    before = {**scene.config, "model_digest": "sha256:before"}
    scene.directory = scene.new_directory()
    if inspected_first:
        await scene.directory.inspect_model()
    scene.directory.configure(before)
    await scene.directory.inspect_model()
    await scene.turns(4)
    assert scene.directory.report().refused is None
    assert scene.directory.report().progress.settled


async def test_a_shard_that_is_not_wanted_any_more_leaves_the_table(scene: Scene) -> None:
    scene.place(balanced_placement(LAYERS, EXPERTS, [4], 1))
    await scene.turns(3)
    report = scene.directory.report()
    assert len(report.shards) == 1
    assert report.progress.settled


async def test_without_shards_there_is_an_empty_table(scene: Scene) -> None:
    scene.directory.configure({"term": 1, "revision": 9})
    await scene.turns(1)
    report = scene.directory.report()
    assert (report.shards, report.placement, report.progress.settled) == ((), None, False)


async def test_counts_are_added_once_however_often_they_are_delivered(scene: Scene) -> None:
    scene.place(balanced_placement(LAYERS, EXPERTS, [4, 4], 1))
    await scene.turns(2)
    assert scene.table is not None
    window = Window.of(scene.table)
    window.load[1, 2] = 5
    window.rows[1], window.visits[1], window.pairs[1], window.failovers = 4, (1, 5), (0, 5), 1
    for sequence in (1, 1, 2):
        assert await scene.sync(copy.deepcopy(window), sequence=sequence)
    report = scene.directory.report()
    assert (report.traffic.layer_rows, report.traffic.visits, report.traffic.failovers) == (8, 12, 2)
    assert decode_counts(report.traffic.load or "", LAYERS, EXPERTS)[1, 2] == 10
    assert [shard.pairs for shard in report.shards] == [0, 10]
    (figures,) = report.traffic.epochs
    assert (figures.term, figures.revision, figures.epoch) == (1, scene.revision, report.epoch)
    assert (figures.rows, figures.pairs, figures.failovers) == (8, 10, 2)
    assert (figures.fan_out, figures.shard_balance) == (1.5, 0.5)
    assert report.figures == figures


async def test_windows_that_come_before_the_model_is_known_are_asked_for_again(scene: Scene) -> None:
    await scene.turns(2)
    assert scene.table is not None
    scene.directory = scene.new_directory()
    assert not await scene.sync(Window.of(scene.table), sequence=1)
    await scene.restart_directory()
    assert await scene.sync(Window.of(scene.table), sequence=1)


async def test_statistics_are_taken_once_the_model_is_known(scene: Scene) -> None:
    report = StatisticsReport("a", FACTS.digest, StatisticsTold(Gathered(1, 0.0, b"packed", 900.0)))
    request = SyncRequest("a", scene.version, 0, (), AttentionStatus(ready=True, digest=FACTS.digest))
    scene.directory = scene.new_directory()
    assert (await scene.directory.sync(request)).statistics is None
    assert scene.directory.take_statistics(report).known is None
    assert await scene.directory.adopt_statistics(b"packed") == "the model is not known here yet"
    await scene.restart_directory()
    assert "no statistics" in (await scene.directory.adopt_statistics(b"packed") or "")
    assert (await scene.directory.sync(request)).statistics == StatisticsKnown(FACTS.digest, number=0)
    assert scene.directory.take_statistics(report).known == StatisticsKnown(FACTS.digest, number=1)
    assert (await scene.directory.sync(request)).statistics == StatisticsKnown(FACTS.digest, number=1)
    other = dataclasses.replace(request, status=AttentionStatus(ready=True, digest="other"))
    assert (await scene.directory.sync(other)).statistics is None


async def test_a_model_that_cannot_be_served_is_reported_and_looked_at_again() -> None:
    missing = ModelError("ConfigMissing", "no config.json in /m; copy it")
    answers: list[ModelFacts | Exception] = [OSError(36, "File name too long"), missing, FACTS]

    def inspect(model: ModelArgs) -> ModelFacts:
        assert model == MODEL
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    directory = Directory(MODEL, inspect, FakeShard)
    assert not await directory.inspect_model()
    unforeseen = directory.report().model_problem
    assert unforeseen is not None
    assert "the model at /m cannot be inspected: OSError: [Errno 36] File name too long" in unforeseen.message
    assert not await directory.inspect_model()
    report = directory.report()
    assert report.model is None
    assert report.model_problem is not None
    assert report.model_problem.reason == "ConfigMissing"
    reply = await directory.sync(SyncRequest("a", TableVersion(0, ""), 0, None, AttentionStatus(ready=False)))
    assert reply.table is None
    assert await directory.inspect_model()
    assert directory.report().model == FACTS
    assert directory.report().model_problem is None


async def test_a_placement_that_turns_out_to_be_for_another_model_is_refused() -> None:
    scene = Scene(shards=1)
    scene.place(balanced_placement(LAYERS, EXPERTS + 1, [5], 1))
    assert scene.directory.report().refused is None
    await scene.directory.inspect_model()
    assert "the model has 2 of 4" in (scene.directory.report().refused or "")
    await scene.turns(2)
    assert not scene.shards[0].held.any()


async def test_an_answer_from_before_an_order_is_not_believed() -> None:
    """Shard 0 is asked, then told to free a copy, and only then answers what it held when it was asked."""
    scene = Scene(shards=2)
    await scene.directory.inspect_model()
    scene.place(balanced_placement(LAYERS, EXPERTS, [4, 4], 2), min_copies=1)
    scene.now += LEASE_SECONDS
    await scene.turns(3)
    monitor = scene.directory._monitors[0]
    asked, answer = asyncio.Event(), asyncio.Event()
    describe = scene.shards[0].describe

    async def slowly(known: str | None, hold: float) -> ShardDescription:
        description = await describe(known, hold)
        asked.set()
        await answer.wait()
        return description

    scene.shards[0].describe = slowly  # type: ignore[method-assign]  # this one answer comes late
    poll = asyncio.create_task(monitor.poll())
    await asked.wait()
    await monitor.assign(load=(), free=((0, 0),), held=np.ones((LAYERS, EXPERTS, 2), dtype=bool))
    answer.set()
    await poll
    assert not monitor.held(FACTS)[0, 0]


async def test_a_cache_that_stands_still_holds_no_report_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is there is read from a file of the node."""
    goes_on, told, inspects = threading.Event(), Fetched(done=1, total=4), threading.Event()

    def read(path: str) -> Fetched:
        assert goes_on.wait(20)
        return told

    def inspect(model: ModelArgs) -> ModelFacts:
        inspects.wait(20)
        return FACTS

    monkeypatch.setattr(directory, "report_fetched", read)
    monkeypatch.setattr(directory, "FETCHED_SECONDS", 0.01)
    loading = Directory(ModelArgs(path="hf://some/model@1"), inspect, lambda ref: FakeShard(ref.index))
    running = asyncio.create_task(loading.run())
    try:
        await asyncio.sleep(0.05)
        assert loading.report().fetched is None
        goes_on.set()
        for _ in range(2000):
            if loading.report().fetched == told:
                break
            await asyncio.sleep(0.01)
        assert loading.report().fetched == told
    finally:
        goes_on.set()
        inspects.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
