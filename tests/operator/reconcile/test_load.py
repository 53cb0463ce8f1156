"""What is told of where a deployment is busy: bounded, seldom, and nothing new of a quiet one."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from moe_facts import FACTS as SMALL

from moe_contract.load import load_of
from moe_contract.model import ModelFacts
from moe_contract.report import DirectoryReport, Progress, Traffic
from moe_contract.sizes import MOST_EXPERTS, MOST_LAYERS, MOST_SHARDS, MOST_SLOTS
from moe_operator.api.status import TIME_FORMAT, LoadStatus
from moe_operator.reconcile.load import LOAD_SECONDS, next_load
from moe_placement.encoding import encode_counts

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FACTS = SMALL.model_copy(update={"layers": 6, "experts": 16})
COUNTS = np.ones((FACTS.layers, FACTS.experts), dtype=np.int64)
COUNTS[3, 15], COUNTS[5, 2] = 15, 85


def report(
    layer_rows: int = 600, load: str | None = encode_counts(COUNTS), facts: ModelFacts = FACTS
) -> DirectoryReport:
    shares = (7500, 2500) if facts is FACTS else (10,) * 1000 + (0,) * (MOST_SHARDS - 1000)
    return DirectoryReport(
        term=1,
        revision=1,
        epoch=7,
        model=facts,
        progress=Progress(copied=0, total=0, settled=True),
        traffic=Traffic(layer_rows=layer_rows, load=load, shares=shares),
    )


def told(layer_rows: int = 500, time: str = "2026-01-02T03:03:05Z") -> LoadStatus:
    return LoadStatus(time=time, layer_rows=layer_rows, shards="5000 5000")


def test_shares_of_shards_and_the_busiest_experts_by_band() -> None:
    load = next_load(None, report(), NOW)
    assert load is not None
    assert (load.time, load.layer_rows, load.shards) == ("2026-01-02T03:04:05Z", 600, "7500 2500")
    assert [band.layers for band in load.bands] == ["0-1", "2-3", "4-5"]
    assert load.bands[1].experts[:2] == ("3/15 5000", "2/0 625")
    assert load.bands[2].experts[0] == "5/2 8500"
    assert {len(band.experts) for band in load.bands} == {10}


def test_shares_that_are_no_parts_of_a_whole_are_not_told() -> None:
    strange = report()
    traffic = strange.traffic.model_copy(update={"shares": (10_000,) * MOST_SHARDS})
    strange = strange.model_copy(update={"traffic": traffic})
    assert load_of(strange) is None
    assert next_load(told(), strange, NOW) == told()


def test_the_largest_deployment_takes_less_than_4_kb() -> None:
    facts = FACTS.model_copy(update={"layers": MOST_LAYERS, "experts": MOST_SLOTS // MOST_LAYERS})
    counts = np.zeros((facts.layers, facts.experts), dtype=np.int64)
    counts[-11:, -1] = counts[300:400, -1] = counts[500:600, -1] = 2**31
    load = next_load(None, report(2**52, encode_counts(counts), facts), NOW)
    assert load is not None
    assert min(len(band.experts) for band in load.bands) == 10
    assert len(load.model_dump_json(by_alias=True)) <= 4096


@pytest.mark.parametrize(
    ("before", "rows", "seconds", "anew"),
    [
        (None, 600, 0, True),
        (None, 0, 0, False),
        (told(500), 600, LOAD_SECONDS, True),
        (told(500), 600, LOAD_SECONDS - 1, False),
        (told(600), 600, 9000, False),
        # The directory has restarted, without requests since, and with some.
        (told(500), 0, 9000, False),
        (told(500), 6, 9000, True),
        # Somebody's hand, or a clock that was put back.
        (told(500, "2036-01-02T03:03:05Z"), 600, 0, True),
        (told(500, "soon"), 600, 0, True),
    ],
)
def test_told_anew_when_requests_came_and_a_minute_is_over(
    before: LoadStatus | None, rows: int, seconds: float, anew: bool
) -> None:
    now = datetime.strptime(told().time, TIME_FORMAT).replace(tzinfo=UTC) + timedelta(seconds=seconds)
    assert (next_load(before, report(rows), now) is not before) is anew


def test_what_only_a_stranger_tells_is_not_unpacked() -> None:
    facts = FACTS.model_copy(update={"layers": MOST_LAYERS, "experts": MOST_EXPERTS})
    assert load_of(report(load=encode_counts(COUNTS), facts=facts)) is None


def test_what_cannot_be_read_leaves_what_was_told() -> None:
    assert next_load(told(), None, NOW) == told()
    for load in (None, "damaged", encode_counts(COUNTS[:2])):
        assert load_of(report(load=load)) is None
        assert next_load(told(), report(load=load), NOW) == told()
