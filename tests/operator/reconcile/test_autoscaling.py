"""A deployment that is scaled by its policy: what is measured is injected; objects, passes and times are real."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from bench import Bench
from fake_ray import FakeDirectory, JsonObject
from moe_facts import FACTS

from moe_contract.report import DirectoryReport, EpochFigures, Pace
from moe_operator.kube.errors import KubeError
from moe_operator.kube.resources import MOE_DEPLOYMENTS
from moe_operator.offload.errors import JobDelayedError
from moe_operator.reconcile.decider import DECIDING, FORESEEING, Decider
from moe_operator.reconcile.reconciler import WORK_SECONDS
from moe_operator.reconcile.world import World
from moe_placement.encoding import encode_counts

POLICY: dict[str, Any] = {"minShards": 2, "maxShards": 4, "scaleUpAfter": "10s", "scaleDownAfter": "30s"}


@dataclass
class BusyDirectory(FakeDirectory):
    """Tells how busy shards are: together they have ``work``, divided among all that hold experts.

    Attributes:
        seconds: how long they have served.
        tells: whether they tell it at all.
        work: shards that it keeps busy all the time.
        paces: how long tokens take, by rows of a step.
        empty: shards to which nothing has been copied yet; the others do all the work.
    """

    seconds: float = 100.0
    busy: float = 50.0
    tells: bool = True
    work: float = 1.0
    paces: tuple[Pace, ...] = ()
    empty: frozenset[int] = frozenset()

    def passes(self, seconds: float, shards: int) -> None:
        self.seconds += seconds
        self.busy += seconds * min(1.0, self.work / max(1, shards))

    def __call__(self, config: JsonObject) -> DirectoryReport | None:
        report = super().__call__(config)
        if report is None or not self.tells:
            return report
        told = {"busy_us": int(self.busy * 1e6), "served_us": int(self.seconds * 1e6), "incarnation": "a"}
        shards = tuple(shard.model_copy(update=told) for shard in report.shards)
        if self.paces:
            figures = EpochFigures(
                term=report.term, revision=report.revision, epoch=report.epoch, rows=1, pairs=1, failovers=0, fan_out=1,
                node_fan_out=0, shard_balance=1, node_balance=1, paces=self.paces,
            )  # fmt: skip
            report = report.model_copy(update={"traffic": report.traffic.model_copy(update={"epochs": (figures,)})})
        if self.empty:
            nothing = {"held": 0, "busy_us": 0}
            shards = tuple(each.model_copy(update=nothing if each.index in self.empty else {}) for each in shards)
            progress = {"copied": sum(shard.held for shard in shards), "settled": False}
            report = report.model_copy(update={"progress": report.progress.model_copy(update=progress)})
        return report.model_copy(update={"shards": shards})


@dataclass
class Scaled:
    """The bench with such a directory."""

    bench: Bench
    directory: BusyDirectory = field(default_factory=lambda: BusyDirectory(FACTS))

    async def begin(self, shards: int = 2, policy: dict[str, Any] | None = None, **experts: Any) -> None:
        self.bench.directory = self.bench.ray.report = self.directory
        more = {"slotsPerShard": 8, "autoscaling": POLICY | (policy or {}), **experts}
        self.bench.apply(experts={"shards": shards, **more})
        await self.bench.work(6)

    async def work(self, seconds: float) -> None:
        for _ in range(round(seconds / 5)):
            self.directory.passes(5, self.shards)
            await self.bench.work(1, 5.0)

    @property
    def moe(self) -> JsonObject:
        return self.bench.kube.moe()

    @property
    def shards(self) -> int:
        return self.moe["spec"]["experts"]["shards"]

    @property
    def status(self) -> JsonObject:
        return self.moe["status"]["autoscaling"]

    def decisions(self) -> list[tuple[int, int, str]]:
        """The oldest first."""
        told = self.status.get("decisions", [])
        return [(each["fromShards"], each["toShards"], each["reason"]) for each in reversed(told)]

    def message(self, kind: str) -> str:
        return self.bench.message(kind)

    def owned_by(self, manager: str, subresource: str = "") -> None:
        """Somebody is noted by the API server as who wrote the number."""
        metadata = {**self.moe["metadata"], "managedFields": [{"manager": manager, "subresource": subresource}]}
        self.bench.kube.put(MOE_DEPLOYMENTS, {**self.moe, "metadata": metadata})


@pytest.fixture
def scaled(bench: Bench) -> Scaled:
    return Scaled(bench)


async def test_up_soon_and_down_late_each_with_its_figures(scaled: Scaled) -> None:
    await scaled.begin()
    assert scaled.bench.condition("AutoscalingActive") == "True AsExpected"
    assert scaled.bench.condition("AutoscalerConflict") == "False AsExpected"
    scaled.directory.work = 1.9
    await scaled.work(10)
    assert scaled.shards == 2
    await scaled.work(10)
    assert scaled.shards == 3
    await scaled.work(60)
    assert scaled.decisions() == [(2, 3, "UtilizationAboveTarget")]
    scaled.directory.work = 0.1
    await scaled.work(30)
    assert scaled.shards == 3
    await scaled.work(15)
    assert scaled.shards == 2
    await scaled.work(60)
    assert scaled.decisions() == [(2, 3, "UtilizationAboveTarget"), (3, 2, "BelowTarget")]
    assert scaled.bench.kube.scaled == [("moe-operator-autoscaler", 3), ("moe-operator-autoscaler", 2)]
    down, up = scaled.status["decisions"]
    assert (up["utilization"], down["utilization"]) == (95, 3)
    assert "is busy 95% of its time (targetUtilization 70%): 3 shards instead of 2 are wanted" in up["message"]
    assert "2 shards instead of 3 suffice, and did for 30s" in down["message"]
    told = [event for event in scaled.bench.kube.events() if event["action"] == "Scale"]
    assert [(event["reason"], event["note"]) for event in told] == [
        ("UtilizationAboveTarget", f"2 → 3 shards: {up['message']}"),
        ("BelowTarget", f"3 → 2 shards: {down['message']}"),
    ]
    assert 'moe_operator_autoscale_decisions_total{direction="up",reason="UtilizationAboveTarget"} 1.0' in (
        scaled.bench.metrics.exposition().decode()
    )


async def test_no_more_are_asked_for_while_those_that_came_hold_nothing_yet(scaled: Scaled) -> None:
    scaled.directory.empty = frozenset(range(2, 8))
    await scaled.begin(policy={"maxShards": 8})
    scaled.directory.work = 8.0
    await scaled.work(180)
    assert scaled.decisions() == [(2, 3, "UtilizationAboveTarget")]
    scaled.directory.empty = frozenset()
    await scaled.work(30)
    assert scaled.decisions()[1:] == [(3, 5, "UtilizationAboveTarget")]


def pace(rows: int, tokens: int, median: float) -> Pace:
    return Pace(rows=rows, tokens=tokens, lower=median, median=median, upper=median)


async def test_tokens_of_a_peak_neither_add_shards_nor_keep_them_after_it(scaled: Scaled) -> None:
    scaled.directory.paces = (pace(16, 90_000, 0.06),)
    scaled.directory.work = 1.0
    await scaled.begin(shards=3, policy={"maxShards": 8, "itlMs": 40})
    for look in range(10):
        scaled.directory.paces = (pace(1, 50 * look, 0.01), pace(16, 90_000, 0.06))
        await scaled.work(5)
    assert scaled.decisions() == [(3, 2, "BelowTarget")]
    assert scaled.status["decisions"][0]["itlMs"] == 10


async def test_the_brain_is_left_in_peace_for_a_while_where_it_was_kept_busy(
    scaled: Scaled, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def late(_: Decider, world: World, *args: Any) -> None:
        asked.append(world.now)
        raise JobDelayedError("the worker process was busy")

    await scaled.begin()
    monkeypatch.setattr(Decider, "foresee", late)
    scaled.directory.work = 1.9
    await scaled.work(60)
    assert len(asked) == 1
    await scaled.work(40)
    assert len(asked) == 2
    assert DECIDING.seconds + FORESEEING.seconds < WORK_SECONDS


async def test_another_process_goes_on_from_the_status_and_waits_for_a_whole_window(scaled: Scaled) -> None:
    await scaled.begin(shards=3)
    scaled.directory.work = 0.1
    await scaled.work(25)
    scaled.bench.restart()
    await scaled.work(30)
    assert scaled.shards == 3
    await scaled.work(20)
    assert scaled.shards == 2
    assert scaled.decisions() == [(3, 2, "BelowTarget")]


async def test_bounds_hold_at_once(scaled: Scaled) -> None:
    await scaled.begin(shards=1)
    assert scaled.decisions() == [(1, 2, "BelowMinimum")]
    assert "spec.experts.autoscaling.minShards, which is 2" in scaled.status["decisions"][0]["message"]
    scaled.bench.change(
        experts={**scaled.moe["spec"]["experts"], "autoscaling": POLICY | {"minShards": 1, "maxShards": 1}}
    )
    await scaled.work(30)
    assert scaled.shards == 1
    assert scaled.decisions()[-1] == (2, 1, "AboveMaximum")


async def test_a_schedule_holds_while_it_lasts(scaled: Scaled) -> None:
    # The bench's clock stands at 03:20:45.
    schedule = {"cron": "22 3 * * *", "duration": "5m", "minShards": 3, "maxShards": 4}
    await scaled.begin(policy={"schedules": [schedule]})
    scaled.directory.work = 0.0
    await scaled.work(60)
    assert scaled.shards == 2
    await scaled.work(60)
    assert scaled.shards == 3
    assert scaled.status["schedule"] == 0
    assert scaled.decisions() == [(2, 3, "BelowMinimum")]
    assert "between 3 and 4 shards run, as spec.experts.autoscaling.schedules[0] says" in scaled.message(
        "AutoscalingActive"
    )
    await scaled.work(360)
    assert scaled.shards == 2


async def test_a_schedule_that_leaves_the_bounds_stops_all(scaled: Scaled) -> None:
    schedule = {"cron": "22 3 * * *", "duration": "5m", "minShards": 3, "maxShards": 5}
    await scaled.begin(shards=1, policy={"schedules": [schedule]})
    assert scaled.bench.condition("AutoscalingActive") == "False ScheduleInvalid"
    assert "spec.experts.autoscaling.schedules[0].maxShards is 5" in scaled.message("AutoscalingActive")
    assert scaled.shards == 1
    assert "ScheduleInvalid" in scaled.bench.kube.reasons()


async def test_fewer_only_if_the_plan_for_them_is_good(scaled: Scaled) -> None:
    # One expert has all the load: with any number of shards one of them has it.
    counts = np.zeros((FACTS.layers, FACTS.experts), dtype=np.int64)
    counts[0, 0] = 1000
    scaled.directory.load = encode_counts(counts)
    await scaled.begin(shards=4)
    scaled.directory.work = 0.8  # a fifth of each as told; all of one as planned
    await scaled.work(120)
    assert scaled.shards == 4
    assert scaled.decisions() == [(4, 4, "PlanRefused")]
    assert (
        "but not 2: the busiest of 2 shards would be busy 80% of its time" in scaled.status["decisions"][0]["message"]
    )
    assert scaled.bench.kube.reasons().count("PlanRefused") == 1
    scaled.directory.work = 0.4
    await scaled.work(120)
    assert scaled.shards == 2
    assert "planned: 2 shards, the busiest of them busy 40%, balance 0.50" in scaled.status["decisions"][0]["message"]


async def test_fewer_than_the_copies_need_are_not_asked_for(scaled: Scaled) -> None:
    await scaled.begin(shards=4, policy={"minShards": 1}, slotsPerShard=4, copies={"min": 1})
    scaled.directory.work = 0.0
    await scaled.work(60)
    # 8 experts in slots of 4.
    assert scaled.shards == 2
    assert "not 1: the copies of the experts need 2 shards" in scaled.status["decisions"][0]["message"]
    await scaled.work(300)
    assert scaled.decisions() == [(4, 2, "BelowTarget"), (2, 2, "PlanRefused")]


@pytest.mark.parametrize(
    ("manager", "subresource", "told"),
    [
        ("kube-controller-manager", "scale", "kube-controller-manager (a HorizontalPodAutoscaler)"),
        ("kubectl", "scale", "kubectl"),
        ("argocd-controller", "", "argocd-controller"),
    ],
)
async def test_it_steps_back_from_whoever_else_scales(
    scaled: Scaled, manager: str, subresource: str, told: str
) -> None:
    await scaled.begin()
    scaled.directory.work = 1.9
    await scaled.work(25)
    assert scaled.shards == 3
    scaled.owned_by("moe-operator-autoscaler", "scale")
    await scaled.work(5)
    experts = scaled.moe["spec"]["experts"]
    scaled.bench.change(experts={**experts, "shards": 4})
    scaled.owned_by(manager, subresource)
    await scaled.work(120)
    assert scaled.shards == 4
    assert scaled.bench.condition("AutoscalerConflict") == "True ForeignScaler"
    assert scaled.bench.condition("AutoscalingActive") == "False ForeignScaler"
    assert f"spec.experts.shards is 4, written by {told} after" in scaled.message("AutoscalerConflict")
    assert "take spec.experts.autoscaling out of the spec and put it back" in scaled.message("AutoscalerConflict")
    assert scaled.bench.kube.reasons().count("ForeignScaler") == 1
    # The cure.
    policy = experts.pop("autoscaling")
    scaled.bench.change(experts={**experts, "shards": 4})
    await scaled.work(5)
    assert "autoscaling" not in scaled.moe["status"]
    scaled.bench.change(experts={**experts, "shards": 4, "autoscaling": policy})
    scaled.directory.work = 0.1
    await scaled.work(60)
    assert scaled.bench.condition("AutoscalerConflict") == "False AsExpected"
    assert scaled.shards == 2


async def test_a_scale_that_nobody_is_named_for_is_told_by_the_number(scaled: Scaled) -> None:
    await scaled.begin()
    scaled.directory.work = 1.9
    await scaled.work(25)
    assert scaled.shards == 3
    await scaled.work(10)
    scaled.bench.change(experts={**scaled.moe["spec"]["experts"], "shards": 4})
    await scaled.work(10)
    assert "written by somebody whom the API server does not name" in scaled.message("AutoscalerConflict")


async def test_whoever_wakes_it_by_hand_says_where_the_policy_goes_on(scaled: Scaled) -> None:
    await scaled.begin()
    scaled.directory.work = 1.9
    await scaled.work(25)
    scaled.owned_by("moe-operator-autoscaler", "scale")
    await scaled.work(5)
    experts = scaled.moe["spec"]["experts"]
    scaled.bench.change(experts={**experts, "shards": 0})
    scaled.owned_by("kubectl", "scale")
    await scaled.work(60)
    scaled.bench.change(experts={**experts, "shards": 4})
    scaled.owned_by("kubectl", "scale")
    scaled.directory.work = 0.1
    await scaled.work(15)
    assert scaled.shards == 4
    assert scaled.bench.condition("AutoscalingActive") == "True AsExpected"
    await scaled.work(60)
    assert scaled.decisions()[1:] == [(4, 2, "BelowTarget")]
    # Who writes after that is in its way all the same.
    scaled.owned_by("moe-operator-autoscaler", "scale")
    await scaled.work(5)
    scaled.bench.change(experts={**experts, "shards": 3})
    scaled.owned_by("kubectl", "scale")
    await scaled.work(60)
    assert scaled.bench.condition("AutoscalerConflict") == "True ForeignScaler"
    assert scaled.shards == 3


async def test_a_shard_that_never_comes_is_waited_for_no_more_where_the_others_suffice(scaled: Scaled) -> None:
    scaled.directory.lost = frozenset({3})
    scaled.directory.work = 0.1
    await scaled.begin(shards=4)
    await scaled.work(290)
    assert scaled.shards == 4
    assert scaled.bench.condition("AutoscalingActive") == "False FiguresMissing"
    assert "not all shards answer and hold experts yet" in scaled.message("AutoscalingActive")
    await scaled.work(60)
    assert scaled.shards == 2
    assert scaled.decisions() == [(4, 2, "BelowTarget")]
    await scaled.work(30)
    assert scaled.bench.condition("AutoscalingActive") == "True AsExpected"


async def test_one_that_is_drained_does_not_hide_that_another_never_comes(scaled: Scaled) -> None:
    scaled.directory.lost = frozenset({3})
    scaled.directory.work = 0.1
    await scaled.begin(shards=4)
    scaled.bench.annotate({"moe-operator.io/drain-shards": "1"})
    await scaled.work(360)
    assert scaled.decisions() == [(4, 2, "BelowTarget")]


async def test_a_shard_that_never_comes_stays_asked_for_where_it_is_wanted_but_no_more_are(scaled: Scaled) -> None:
    scaled.directory.lost = frozenset({2})
    await scaled.begin(shards=3)
    scaled.directory.work = 3.9
    await scaled.work(420)
    assert scaled.shards == 3
    assert scaled.decisions() == []


async def test_bounds_hold_while_a_shard_never_comes(scaled: Scaled) -> None:
    scaled.directory.lost = frozenset({0, 3})
    await scaled.begin(shards=4)
    narrow = POLICY | {"minShards": 1, "maxShards": 2}
    scaled.bench.change(experts={**scaled.moe["spec"]["experts"], "autoscaling": narrow})
    await scaled.work(10)
    assert scaled.decisions() == [(4, 2, "AboveMaximum")]


async def test_shards_that_are_drained_count_beside_those_that_are_wanted(scaled: Scaled) -> None:
    await scaled.begin(shards=3, policy={"maxShards": 8})
    scaled.bench.annotate({"moe-operator.io/drain-shards": "2"})
    await scaled.bench.work(4, 1.0)
    assert not scaled.bench.runs()[1].holdings(2)
    scaled.directory.work = 3.0 * 0.95
    await scaled.work(20)
    assert scaled.decisions() == [(3, 4, "UtilizationAboveTarget")]


async def test_what_sleeps_or_is_suspended_is_left_alone(scaled: Scaled) -> None:
    await scaled.begin()
    experts = scaled.moe["spec"]["experts"]
    scaled.bench.change(experts={**experts, "shards": 0})
    await scaled.work(30)
    assert scaled.shards == 0
    assert scaled.bench.condition("AutoscalingActive") == "False Asleep"
    assert scaled.bench.condition("AutoscalerConflict") == "False AsExpected"
    scaled.bench.change(suspend=True, experts={**experts, "shards": 1})
    await scaled.work(10)
    assert scaled.bench.condition("AutoscalingActive") == "False Suspended"
    assert scaled.shards == 1


async def test_shards_of_an_older_release_tell_nothing(scaled: Scaled) -> None:
    scaled.directory.tells = False
    await scaled.begin(shards=1)
    assert scaled.shards == 2, "bounds hold all the same"
    await scaled.work(30)
    assert scaled.bench.condition("AutoscalingActive") == "False FiguresMissing"
    assert "of an older release" in scaled.message("AutoscalingActive")


async def test_more_shards_than_experts_are_told(scaled: Scaled) -> None:
    await scaled.begin(policy={"maxShards": 64})
    assert scaled.message("AutoscalingActive") == ("between 2 and 8 shards run; the model has 8 experts per MoE layer")
    scaled.bench.change(experts={**scaled.moe["spec"]["experts"], "autoscaling": {"minShards": 9, "maxShards": 64}})
    await scaled.work(10)
    assert scaled.bench.condition("AutoscalingActive") == "False TooManyShards"
    assert "spec.experts.autoscaling.minShards is 9, but the model has 8 experts" in scaled.message("AutoscalingActive")
    assert scaled.shards == 2


async def test_what_the_api_server_refuses_is_told_once(scaled: Scaled, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: Any) -> None:
        raise KubeError("PUT …/scale: quota says no", 422)

    await scaled.begin()
    monkeypatch.setattr(scaled.bench.kube, "scale", refuse)
    scaled.directory.work = 1.9
    await scaled.work(180)
    assert scaled.shards == 2
    assert (2, 2, "WriteRefused") in scaled.decisions()
    assert "the API server refused 3: PUT …/scale: quota says no" in str(scaled.status["decisions"])
    assert scaled.bench.condition("Ready") == "True Available"
    assert len(scaled.decisions()) <= 10
