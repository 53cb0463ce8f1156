"""How many writes a life costs the API server, counted as it would see them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bench import Bench
from fake_kube import FakeKube
from fake_ray import FakeDirectory, JsonObject
from moe_facts import FACTS

from moe_contract.report import DirectoryReport, Progress, Traffic
from moe_operator.kube.resources import EVENTS, MOE_DEPLOYMENTS
from moe_placement.encoding import encode_counts

STEP = 0.5


class CountingKube(FakeKube):
    """Notes of each status written: when, and what it tells of Ready."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    async def replace(self, resource: Any, body: Any, subresource: str | None = None) -> Any:
        answer = await super().replace(resource, body, subresource)
        if resource != MOE_DEPLOYMENTS:
            return answer
        ready = next(c for c in body["status"]["conditions"] if c["type"] == "Ready")
        self.told.append(f"{ready['status']} {ready['reason']}")
        return answer

    def events(self) -> int:
        return sum(kind == EVENTS.plural for kind, _, _ in self.objects)


class SlowDirectory(FakeDirectory):
    """Loads for so many looks, and each look finds other figures; then attention starts for so many."""

    def __init__(self, loads: int, starts: int) -> None:
        super().__init__(FACTS)
        self.loads, self.starts, self.looks = loads, starts, 0

    def __call__(self, config: JsonObject) -> DirectoryReport | None:
        report = super().__call__(config)
        if report is None or not report.placement:
            return report
        self.looks += 1
        loaded, ready = self.looks > self.loads, self.looks > self.loads + self.starts
        shards = [
            shard if loaded else shard.model_copy(update={"held": 0 if shard.index else self.looks % 8})
            for shard in report.shards
        ]
        attention = report.attention[0].model_copy(
            update={"ready": ready, "problem": None if ready else f"loading {self.looks}"}
        )
        return report.model_copy(
            update={
                "epoch": self.looks,
                "placement": report.placement if loaded else None,
                "shards": tuple(shards),
                "attention": (attention,),
                "progress": Progress(copied=self.looks, total=self.loads, settled=loaded),
            }
        )


class BusyDirectory(FakeDirectory):
    """While it is busy, each look finds that more rows came, and other experts busy."""

    def __init__(self) -> None:
        super().__init__(FACTS)
        self.busy, self.rows = True, 0

    def __call__(self, config: JsonObject) -> DirectoryReport | None:
        report = super().__call__(config)
        self.rows += 60 if self.busy else 0
        counts = np.full((FACTS.layers, FACTS.experts), 1)
        counts[:, self.rows // 60 % FACTS.experts] = 50
        traffic = Traffic(layer_rows=self.rows, load=encode_counts(counts), shares=(5000, 5000))
        return report and report.model_copy(update={"traffic": traffic})


@pytest.fixture
def counted(bench: Bench) -> Iterator[CountingKube]:
    bench.kube = CountingKube()
    bench.restart()
    yield bench.kube


@pytest.mark.slow
@pytest.mark.parametrize("loads", [10, 60, 300])
async def test_from_apply_to_ready(bench: Bench, counted: CountingKube, loads: int) -> None:
    """60 looks are half a minute of loading, 300 are two and a half."""
    bench.ray.report = SlowDirectory(loads, starts=20)
    bench.ray.status = "DEPLOYING"
    bench.apply()
    await bench.work(6, seconds=STEP)
    bench.ray.status = "RUNNING"
    await bench.work(loads + 24, seconds=STEP)
    assert bench.condition("Ready") == "True Available"
    assert bench.condition("Progressing") == "False Settled"
    assert len(counted.told) <= 15
    assert counted.told.count("False LoadingExperts") <= 5
    assert counted.events() <= 10
    # Settled, and the table's epoch goes on: figures alone.
    before = len(counted.told)
    await bench.work(120, seconds=5.0)
    assert len(counted.told) - before <= 4


async def test_a_problem_whose_words_change_at_every_look(bench: Bench, counted: CountingKube) -> None:
    bench.ray.status = "DEPLOY_FAILED"
    bench.directory.answers = False
    bench.apply()
    for look in range(240):
        bench.ray.message = f"ValueError: try {look} of worker {look * 7}"
        await bench.work(seconds=STEP)
    assert bench.condition("Degraded") == "True DeployFailed"
    # Two minutes: as it appears, then after 30 s, and seldomer from then on.
    assert len(counted.told) <= 6
    assert counted.events() <= 3


@pytest.mark.slow
async def test_what_changes_at_every_look_is_bounded_whatever_it_is(bench: Bench, counted: CountingKube) -> None:
    bench.apply()
    await bench.ready()
    before = len(counted.told)
    for look in range(240):
        bench.directory.answers = look % 2 == 0
        bench.ray.set_status(bench.core, "UNHEALTHY" if look % 3 else "RUNNING", f"words {look}")
        await bench.work(seconds=STEP)
    assert len(counted.told) - before <= 6 + 10 + 120 / 5
    assert counted.events() <= 25 + 120 / 60 + 10


async def test_what_is_held_back_is_told_in_time(bench: Bench, counted: CountingKube) -> None:
    bench.apply()
    await bench.ready()
    bench.ray.set_status(bench.core, "UNHEALTHY", "first")
    await bench.work(seconds=5.0)
    bench.ray.set_status(bench.core, "UNHEALTHY", "second")
    result = await bench.work(seconds=5.0)
    assert bench.message("Degraded").endswith("first")
    assert result.again is not None
    assert result.again <= 6.0
    await bench.work(6, seconds=5.0)
    assert bench.message("Degraded").endswith("second")


async def test_after_a_restart_the_first_look_may_write(bench: Bench, counted: CountingKube) -> None:
    bench.apply()
    await bench.ready()
    bench.ray.set_status(bench.core, "UNHEALTHY", "first")
    await bench.work(seconds=5.0)
    bench.ray.set_status(bench.core, "UNHEALTHY", "second")
    bench.restart()
    await bench.work(seconds=1.0)
    assert bench.message("Degraded").endswith("second")


@pytest.mark.parametrize("field", ["slotsPerShard", "shards", "readyShards"])
async def test_a_status_that_somebody_wrote_by_hand_is_put_right_and_not_believed(bench: Bench, field: str) -> None:
    bench.apply()
    await bench.ready()
    there, right = dict(bench.ray.configs), bench.kube.moe()["status"]
    bench.kube.moe()["status"] = {**right, field: 7, "placement": {"revision": 10**12, "epoch": 1}}
    await bench.work(8, seconds=5.0)
    assert bench.kube.moe()["status"] == right
    assert bench.ray.configs == there


@pytest.mark.slow
async def test_loads_are_told_once_a_minute_and_of_a_quiet_deployment_nothing(
    bench: Bench, counted: CountingKube
) -> None:
    busy = bench.ray.report = BusyDirectory()
    bench.apply()
    await bench.ready()
    before = len(counted.told)
    await bench.work(120, seconds=5.0)
    assert 8 <= len(counted.told) - before <= 11, "ten minutes of traffic"
    assert bench.kube.moe()["status"]["load"]["shards"] == "5000 5000"
    # What came since the last one is told, and then nothing is written, nor is anything by the next process.
    busy.busy = False
    await bench.work(24, seconds=5.0)
    before, reads = len(counted.told), counted.reads.total()
    await bench.work(120, seconds=30.0)
    bench.restart()
    await bench.work(12, seconds=10.0)
    assert len(counted.told) == before, "an hour without traffic"
    assert counted.reads.total() - reads <= 2 * 132, "a look reads the object, and the operator's key seldom"
    busy.busy = True
    await bench.work(2, seconds=5.0)
    assert len(counted.told) == before + 1


async def test_neither_is_ready(bench: Bench) -> None:
    bench.apply(model={"source": {"path": "models/tiny"}})
    bench.directory.answers, bench.ray.status = False, "DEPLOYING"
    await bench.work(2)
    status = bench.kube.moe()["status"]
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    ready |= {"status": "True", "reason": "Available"}
    await bench.work(seconds=5.0)
    assert bench.condition("Ready") == "False DeployingCore"
