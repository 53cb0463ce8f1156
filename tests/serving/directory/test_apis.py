"""The api processes as the directory knows them, on a clock that is set by hand."""

from __future__ import annotations

import pytest

from moe_contract.report import ApiReport, DirectoryReport, Progress
from moe_serving.directory.apis import MOST_ENTRIES, MOST_GONE, ApiReply, Apis, ApiSync
from moe_serving.directory.leases import LEASE_SECONDS
from moe_serving.directory.ledger import Counts, Ledger

REQUESTS = ("moe_http_requests_total", ())
RUNNING = ("moe_answers_running", ())
REPORT = DirectoryReport(term=1, revision=1, epoch=1, progress=Progress(copied=0, total=0, settled=True))


def told(apis: Apis, api: str, now: float, count: float | None = None, **fields: object) -> ApiReply:
    counts: Counts | None = None if count is None else {REQUESTS: count}
    sync = ApiSync(api=api, ready=True, created=100, counts=counts, version=0)
    for name, value in fields.items():
        object.__setattr__(sync, name, value)
    apis.take(sync, now)
    return apis.reply(sync, REPORT, now)


def total(reply: ApiReply) -> float:
    assert reply.ledger is not None
    return reply.ledger.total()[REQUESTS]


def test_whichever_asks_hears_the_sum() -> None:
    apis = Apis()
    told(apis, "a", 10, 3.0, gauges={RUNNING: 2.0})
    reply = told(apis, "b", 11, 4.0, gauges={RUNNING: 5.0})
    assert (total(reply), reply.gauges) == (7.0, {RUNNING: 7.0})
    again = told(apis, "a", 12, gauges={RUNNING: 1.0})
    assert (total(again), again.gauges) == (7.0, {RUNNING: 6.0})
    assert again.version == reply.version


def test_where_each_runs_is_told_while_it_lives() -> None:
    apis = Apis()
    told(apis, "a", 10, host="10.0.0.1")
    told(apis, "b", 10 + LEASE_SECONDS / 2, ready=False, host="10.0.0.2")
    both = (ApiReport(ready=True, host="10.0.0.1"), ApiReport(ready=False, host="10.0.0.2"))
    assert apis.told_of(10 + LEASE_SECONDS / 2) == both
    assert apis.told_of(10 + LEASE_SECONDS) == both[1:]


def test_a_ledger_comes_only_where_it_is_news() -> None:
    apis = Apis()
    reply = told(apis, "a", 10, 3.0)
    assert told(apis, "a", 11, version=reply.version).ledger is None
    assert told(apis, "a", 11, version=None).ledger is None
    assert told(apis, "a", 12, 4.0, version=reply.version).ledger is not None


def test_one_that_has_gone_is_counted_and_is_not_there() -> None:
    apis = Apis()
    told(apis, "a", 10, 3.0, gauges={RUNNING: 2.0}, refused="a field of a's")
    assert (told(apis, "b", 11, 4.0).others_ready, apis.refused(11)) == (1, "a field of a's")
    reply = told(apis, "b", 10 + LEASE_SECONDS)
    assert (total(reply), reply.gauges, reply.others_ready) == (7.0, {}, 0)
    assert apis.refused(10 + LEASE_SECONDS) is None


def test_one_that_does_not_answer_yet_is_no_other_that_does() -> None:
    apis = Apis()
    told(apis, "a", 10, ready=False)
    assert told(apis, "b", 10).others_ready == 0


def test_a_directory_that_restarts_is_handed_what_it_knew() -> None:
    before = Apis()
    told(before, "dead", 10, 5.0, created=50)
    kept = told(before, "a", 11, 3.0, created=60)
    after = Apis()
    young = told(after, "a", 21, 3.0, ledger=kept.ledger, created=kept.created)
    assert not young.settled
    reply = told(after, "b", 21 + LEASE_SECONDS, 1.0, created=70)
    assert (reply.settled, total(reply), reply.created) == (True, 9.0, 50)
    assert reply.directory != kept.directory


def test_of_many_that_have_gone_only_the_sum_is_kept() -> None:
    apis, now = Apis(), 100.0
    for number in range(3 * MOST_GONE):
        now += LEASE_SECONDS
        before = told(apis, str(number), now, 2.0)
    reply = told(apis, "last", now + LEASE_SECONDS, 1.0)
    assert reply.ledger is not None
    assert total(reply) == total(before) + 1.0 == 6.0 * MOST_GONE + 1.0
    assert len(reply.ledger.entries) <= MOST_GONE + 2


def test_nothing_is_folded_before_all_have_told_what_they_know() -> None:
    apis = Apis()
    entries = {str(number): {REQUESTS: 1.0} for number in range(2 * MOST_GONE)}
    assert told(apis, "a", 10, ledger=Ledger(entries)).ledger == Ledger(entries)
    assert told(apis, "b", 9.9 + LEASE_SECONDS, 1.0).ledger == Ledger(entries).count("b", {REQUESTS: 1.0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"counts": {REQUESTS: float("inf")}},
        {"gauges": {RUNNING: float("nan")}},
        {"ledger": Ledger({str(number): {} for number in range(MOST_ENTRIES + 1)})},
    ],
    ids=["counts", "gauges", "ledger"],
)
def test_what_is_no_count_is_not_taken_and_logged(wrong, caplog) -> None:
    apis = Apis()
    told(apis, "a", 10, 3.0)
    reply = told(apis, "b", 11, **wrong)
    assert (total(reply), reply.gauges, reply.others_ready) == (3.0, {}, 1)
    assert "the counts of api b are not taken" in caplog.text


def test_more_processes_than_run_are_not_counted(caplog) -> None:
    apis = Apis()
    for number in range(MOST_ENTRIES + 1):
        reply = told(apis, str(number), 10, 1.0)
    assert total(reply) == MOST_ENTRIES
    assert f"at most {MOST_ENTRIES}" in caplog.text
