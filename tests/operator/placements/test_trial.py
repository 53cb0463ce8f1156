"""Whether a placement that has arrived stays: tables of what was counted before and since."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from epochs import epoch_figures
from placement_objects import content, moved, stored

from moe_contract.report import EpochFigures, Pace
from moe_operator.api import ExpertPlacement, RollbackPolicy
from moe_operator.api.placement import Figures, TokenLatency
from moe_operator.api.status import TIME_FORMAT
from moe_operator.placements.trial import Terms, Trial, counted, goes_back, is_condemned, trial_of

ARRIVED = "2026-01-02T03:00:00Z"
WINDOW = timedelta(minutes=5)
GOOD = Figures(balance="0.9500", fan_out="1.5000", node_fan_out="0.4000", beside_attention=True, rows=5000)
BAD = Figures(balance="0.6000", fan_out="2.0000", node_fan_out="0.9000", beside_attention=True, rows=5000)
FEW = GOOD.model_copy(update={"rows": 10})
BODY = content(moved())


def placement(phase: str = "Verifying", before: Figures | None = GOOD, **status: Any) -> ExpertPlacement:
    arrived = {
        "type": "Migrated",
        "status": "True",
        "observedGeneration": 1,
        "lastTransitionTime": ARRIVED,
        "reason": "InForce",
        "message": "",
    }
    told = {"phase": phase, "origin": "Operator", "approvedBy": "Operator", "conditions": [arrived], **status}
    made = stored(BODY, told, decision="Approved")
    figures = {"before": before, "predicted": GOOD if made.status.origin == "Operator" else None}
    return made.model_copy(update={"status": made.status.model_copy(update=figures)})


def later(windows: float) -> str:
    return (datetime.strptime(ARRIVED, TIME_FORMAT) + windows * WINDOW).strftime(TIME_FORMAT)


def judged(
    of: ExpertPlacement, after: Figures | None, windows: float = 1.0, rollback: str = "Auto", paused: bool = False
) -> Trial:
    return trial_of(of, Terms(WINDOW, RollbackPolicy(rollback), paused), after, later(windows), None)


def said(found: Trial) -> str:
    return f"{found.stays} {found.status} {found.reason}"


BY_PERSON = {"origin": "Person", "approvedBy": None}
APPROVED_BY_PERSON = {"approvedBy": "Person"}


@pytest.mark.parametrize(
    ("status", "before", "after", "windows", "rollback", "wanted"),
    [
        # Not before a window is over, whatever is counted by then.
        ({}, GOOD, BAD, 0.9, "Auto", "None Unknown Observing"),
        ({}, BAD, GOOD, 1.0, "Auto", "True True Verified"),
        # Neither gain nor loss: three windows long it may show, and going back costs as much as coming did.
        ({}, GOOD, GOOD, 1.0, "Auto", "None Unknown Observing"),
        ({}, GOOD, GOOD, 3.0, "Auto", "False False GainMissing"),
        ({}, GOOD, BAD, 1.0, "Auto", "False False GainMissing"),
        ({}, GOOD, BAD, 1.0, "Always", "False False GainMissing"),
        ({}, GOOD, BAD, 1.0, "Never", "True False KeptThoughWorse"),
        # Nothing comparable: three windows long it may come.
        ({}, GOOD, None, 1.0, "Auto", "None Unknown Observing"),
        ({}, GOOD, FEW, 2.9, "Auto", "None Unknown Observing"),
        ({}, GOOD, FEW, 3.0, "Auto", "True Unknown NotVerified"),
        ({}, None, BAD, 3.0, "Auto", "True Unknown NotVerified"),
        # What a person wanted.
        (BY_PERSON, GOOD, BAD, 1.0, "Auto", "True False KeptThoughWorse"),
        (BY_PERSON, GOOD, BAD, 1.0, "Always", "False False GainMissing"),
        (APPROVED_BY_PERSON, GOOD, BAD, 1.0, "Auto", "True False KeptThoughWorse"),
        (APPROVED_BY_PERSON, GOOD, BAD, 1.0, "Always", "False False GainMissing"),
        (BY_PERSON, BAD, GOOD, 1.0, "Auto", "True True Verified"),
    ],
)
def test_what_is_made_of_the_figures(
    status: dict[str, Any], before: Figures | None, after: Figures | None, windows: float, rollback: str, wanted: str
) -> None:
    found = judged(placement(before=before, **status), after, windows, rollback)
    assert said(found) == wanted
    assert (found.measured is not None) is (found.stays is not None and after is not None)


def test_while_somebody_paused_it_nothing_is_taken_back() -> None:
    assert said(judged(placement(), BAD, paused=True)) == "None Unknown Observing"
    assert "pause-rebalance" in judged(placement(), BAD, paused=True).message
    assert said(judged(placement(before=BAD), GOOD, paused=True)) == "True True Verified"


def condemned(reason: str = "GainMissing", **status: Any) -> ExpertPlacement:
    """One that was told to be rolled back."""
    migrated = placement().status.conditions[0].model_dump(by_alias=True)
    verified = {**migrated, "type": "Verified", "status": "False", "reason": reason, "message": "worse"}
    return placement(conditions=[migrated, verified], **status)


@pytest.mark.parametrize(
    ("status", "terms", "wanted", "message"),
    [
        ({}, None, "True False KeptThoughWorse", "worse; it stays, since spec.rebalance.mode is Off"),
        (
            {},
            Terms(WINDOW, RollbackPolicy.NEVER, paused=True),
            "True False KeptThoughWorse",
            "worse; it stays, since spec.rebalance.rollback is Never",
        ),
        (
            {"approvedBy": "Person"},
            Terms(WINDOW, RollbackPolicy.AUTO),
            "True False KeptThoughWorse",
            "worse; it stays, since a person wanted it (spec.rebalance.rollback: Always would take it back)",
        ),
        (
            {},
            Terms(WINDOW, RollbackPolicy.AUTO, paused=True),
            "False False GainMissing",
            "worse; it is not taken back while the annotation moe-operator.io/pause-rebalance is set",
        ),
    ],
)
def test_one_that_is_condemned_stays_once_somebody_says_so(
    status: dict[str, Any], terms: Terms | None, wanted: str, message: str
) -> None:
    made = condemned(**status)
    found = trial_of(made, terms, GOOD, later(2), None)
    assert (said(found), found.message) == (wanted, message)
    assert not goes_back(made, terms)


@pytest.mark.parametrize("reason", ["GainMissing", "TokensSlower"])
def test_and_goes_back_when_the_pause_is_over(reason: str) -> None:
    made = condemned(reason)
    paused = trial_of(made, Terms(WINDOW, RollbackPolicy.AUTO, paused=True), BAD, later(2), None)
    conditions = [
        each if each.type != "Verified" else each.model_copy(update={"message": paused.message})
        for each in made.status.conditions
    ]
    made = made.model_copy(update={"status": made.status.model_copy(update={"conditions": tuple(conditions)})})
    assert goes_back(made, Terms(WINDOW, RollbackPolicy.AUTO))
    assert (judged(made, BAD, 3).message, judged(made, BAD, 3).reason) == ("worse", reason)
    assert judged(made, BAD, 3, paused=True).message == paused.message


@pytest.mark.parametrize("arrived", ["2027-01-02T03:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_time_of_arrival_in_the_future_does_not_keep_it_under_observation(arrived: str) -> None:
    migrated = placement().status.conditions[0].model_copy(update={"last_transition_time": arrived})
    of = placement(conditions=[migrated.model_dump(by_alias=True)])
    assert said(judged(of, BAD)) == "False False GainMissing"
    assert said(judged(of, FEW)) == "True Unknown NotVerified"


def test_a_clock_that_is_a_little_behind_is_no_such_time() -> None:
    assert said(judged(placement(), BAD, windows=-1.0)) == "None Unknown Observing"


def nodes(fan_out: float, node_fan_out: float | None, rows: int | None = 5000) -> Figures:
    told = None if node_fan_out is None else f"{node_fan_out}"
    return Figures(balance="0.9000", fan_out=f"{fan_out}", node_fan_out=told, beside_attention=told and True, rows=rows)


def of_first_release(figures: Figures, **other: Any) -> Figures:
    """As the operator of release 0.1.0 wrote them: it counted all nodes, and told 0 where all shards are on one."""
    return figures.model_copy(update={"beside_attention": None, **other})


@pytest.mark.parametrize(
    ("before", "predicted", "wanted"),
    [
        (nodes(2.0, 1.2), nodes(1.5, 1.0), "True True Verified"),
        (nodes(2.0, 0.0), nodes(1.5, 0.0), "True True Verified"),
        (nodes(1.5, 1.9), nodes(1.4, 1.8), "None Unknown Observing"),
    ],
)
@pytest.mark.parametrize("counted_nodes", [0.4, 1.0, None])
def test_what_the_first_release_told_of_nodes_is_not_compared(
    before: Figures, predicted: Figures, wanted: str, counted_nodes: float | None
) -> None:
    of = placement(before=of_first_release(before))
    told = of.status.model_copy(update={"predicted": of_first_release(predicted)})
    assert said(judged(of.model_copy(update={"status": told}), nodes(1.5, counted_nodes))) == wanted
    by_person = placement(before=of_first_release(before), **BY_PERSON)
    assert said(judged(by_person, nodes(1.5, counted_nodes))) == wanted


def test_a_data_plane_of_the_first_release_tells_nothing_of_nodes_to_compare() -> None:
    found = counted([epoch(1, 1, 3000).model_copy(update={"nodes": 0, "node_fan_out": 1.0})], 1)
    assert found is not None
    assert found.node_fan_out is None
    of = placement(before=nodes(1.5, 0.0))
    assert said(judged(of, found.model_copy(update={"fan_out": "1.2", "balance": "0.9"}))) == "True True Verified"


@pytest.mark.parametrize(
    ("before", "predicted", "after", "windows", "wanted"),
    [
        # A gain of nodes alone is counted as it was foretold, whatever becomes of shards.
        (nodes(2.0, 0.8), nodes(2.1, 0.6), nodes(2.1, 0.6), 1.0, "True True Verified"),
        (nodes(2.0, 0.8), nodes(2.1, 0.6), nodes(2.1, 0.8), 1.0, "False False GainMissing"),
        (nodes(2.0, 0.8), nodes(2.0, 0.6), nodes(2.0, 0.8), 3.0, "False False GainMissing"),
        # All shards on one node: shards count.
        (nodes(2.0, 0.0), nodes(1.5, 0.0), nodes(1.5, 0.0), 1.0, "True True Verified"),
        (nodes(2.0, 0.0), nodes(1.5, 0.0), nodes(2.5, 0.0), 1.0, "False False GainMissing"),
        # The data plane did not tell where attention runs, beside whose node it counts.
        (nodes(2.0, None), nodes(1.5, None), nodes(2.0, 0.85), 1.0, "None Unknown Observing"),
        (nodes(2.0, None), nodes(1.5, None), nodes(2.0, 0.85), 3.0, "False False GainMissing"),
        (nodes(2.0, None), nodes(1.5, None), nodes(1.5, 0.85), 1.0, "True True Verified"),
        # No gain was promised of shards: what is counted of them is as foretold, or is worse than that.
        (nodes(2.0, None), nodes(2.1, None), nodes(2.1, 0.6), 1.0, "None Unknown Observing"),
        (nodes(2.0, None), nodes(2.1, None), nodes(2.1, 0.6), 3.0, "True Unknown NotVerified"),
        (nodes(2.0, None), nodes(2.1, None), nodes(2.4, 0.6), 1.0, "False False GainMissing"),
    ],
)
def test_nodes_are_compared_where_both_sides_count_the_same(
    before: Figures, predicted: Figures, after: Figures, windows: float, wanted: str
) -> None:
    of = placement(before=before)
    of = of.model_copy(update={"status": of.status.model_copy(update={"predicted": predicted})})
    assert said(judged(of, after, windows)) == wanted


def test_of_what_a_person_wrote_both_sides_are_counted_and_nodes_decide() -> None:
    of = placement(before=nodes(2.0, 1.0), **BY_PERSON)
    assert said(judged(of, nodes(2.4, 0.5))) == "True True Verified"


def timed(figures: Figures, milliseconds: float, rows_per_second: str = "100") -> Figures:
    took = [round(1000 * milliseconds * part) for part in (0.95, 1, 1.05)]
    latency = TokenLatency(
        rows=8, tokens=900, lower_microseconds=took[0], median_microseconds=took[1], upper_microseconds=took[2]
    )
    return figures.model_copy(update={"latency": (latency,), "rows_per_second": rows_per_second})


@pytest.mark.parametrize(
    ("status", "before", "after", "windows", "rollback", "wanted"),
    [
        ({}, timed(BAD, 10), timed(GOOD, 10), 1.0, "Auto", "True True Verified"),
        ({}, timed(BAD, 10), timed(GOOD, 20), 1.0, "Auto", "None Unknown Observing"),
        ({}, timed(BAD, 10), timed(GOOD, 20), 3.0, "Auto", "False False TokensSlower"),
        ({}, timed(BAD, 10), timed(GOOD, 20), 3.0, "Never", "True False KeptThoughWorse"),
        (BY_PERSON, timed(BAD, 10), timed(GOOD, 20), 3.0, "Auto", "True False KeptThoughWorse"),
        (BY_PERSON, timed(BAD, 10), timed(GOOD, 20), 3.0, "Always", "False False TokensSlower"),
        ({}, timed(BAD, 10), timed(GOOD, 20, "200"), 3.0, "Auto", "True True Verified"),
        ({}, timed(GOOD, 10), timed(BAD, 5), 1.0, "Auto", "False False GainMissing"),
        # Of one side only: the other had a data plane that measured none.
        ({}, BAD, timed(GOOD, 20), 1.0, "Auto", "True True Verified"),
        ({}, timed(BAD, 10), GOOD, 1.0, "Auto", "None Unknown Observing"),
        ({}, timed(BAD, 10), GOOD, 3.0, "Auto", "True True Verified"),
    ],
)
def test_latency_may_speak_against_a_placement_and_never_for_it(
    status: dict[str, Any], before: Figures, after: Figures, windows: float, rollback: str, wanted: str
) -> None:
    found = judged(placement(before=before, **status), after, windows, rollback)
    assert said(found) == wanted, found.message
    if "TokensSlower" in wanted:
        assert "a token took 10 -> 20 ms (+100.0%) in steps of as many rows" in found.message
        paused = judged(placement(before=before, **status), after, windows, rollback, paused=True)
        assert said(paused) == "None Unknown Observing"


@pytest.mark.parametrize(("seconds", "wanted"), [
    (30, "None Unknown Observing"), (290, "None Unknown Observing"), (300, "False False TokensSlower"),
])  # fmt: skip
def test_slow_tokens_decide_after_minutes_however_short_windows_are(seconds: int, wanted: str) -> None:
    short = Terms(timedelta(seconds=10), RollbackPolicy.AUTO)
    now = (datetime.strptime(ARRIVED, TIME_FORMAT) + timedelta(seconds=seconds)).strftime(TIME_FORMAT)
    found = trial_of(placement(before=timed(BAD, 10)), short, timed(GOOD, 20), now, None)
    assert said(found) == wanted
    if found.stays is None:
        assert found.message == (
            "3 of 3 windows are over, and tokens take longer than before: that decides 5m after the last copy came"
        )


def test_slow_tokens_of_longer_contexts_say_nothing() -> None:
    before, after = (
        timed(figures, took).model_copy(update={"context": context})
        for figures, took, context in ((BAD, 10, "400"), (GOOD, 20, "900"))
    )
    assert said(judged(placement(before=before), after, 3.0)) == "True True Verified"


def test_what_was_promised_nothing_of_or_is_not_to_be_judged_stays() -> None:
    made = placement()
    bare = made.model_copy(update={"status": made.status.model_copy(update={"predicted": None})})
    assert said(judged(bare, BAD)) == "True Unknown NotVerified"
    assert said(trial_of(made, None, BAD, later(1), None)) == "True Unknown NotVerified"


def test_what_is_decided_stands() -> None:
    """An operator that starts anew goes on with it, whatever is counted by then."""
    found = judged(placement(), BAD)
    told = {
        "type": "Verified",
        "status": found.status,
        "observedGeneration": 1,
        "lastTransitionTime": later(1),
        "reason": str(found.reason),
        "message": found.message,
    }
    condemned = placement(conditions=[told])
    assert is_condemned(condemned)
    assert said(judged(condemned, GOOD, 2)) == "False False GainMissing"
    assert judged(condemned, GOOD, 2).message == found.message
    # Without a way back it stays, and that is told.
    terms = Terms(WINDOW, RollbackPolicy.AUTO)
    kept = trial_of(condemned, terms, GOOD, later(2), "revision 1 does not fit any more")
    assert said(kept) == "True False KeptThoughWorse"
    assert kept.message == f"{found.message}; it stays, since revision 1 does not fit any more"
    assert not is_condemned(placement("Active", conditions=[told]))
    assert not is_condemned(placement())


@pytest.mark.parametrize(
    "before", [Figures(balance="x", fan_out="1", node_fan_out="0"), Figures(balance="7", fan_out="1", node_fan_out="0")]
)
def test_a_status_that_somebody_else_wrote_breaks_nothing(before: Figures) -> None:
    assert said(judged(placement(before=before), GOOD, 3)) == "True Unknown NotVerified"
    migrated = placement().status.conditions[0].model_copy(update={"last_transition_time": "2026-01-02T03:00:00+00:00"})
    assert said(judged(placement(conditions=[migrated.model_dump(by_alias=True)]), GOOD)) == "None Unknown Observing"


def epoch(number: int, revision: int, rows: int) -> EpochFigures:
    return epoch_figures(
        number, revision=revision, rows=rows, fan_out=1.0 + number / 10, node_fan_out=0.25, balance=0.5
    )


def test_figures_are_those_of_the_newest_table_that_had_enough() -> None:
    tables = [epoch(1, 1, 50), epoch(2, 1, 2000), epoch(3, 1, 3000), epoch(4, 1, 20), epoch(5, 2, 10), epoch(6, 2, 0)]
    assert counted(tables, 1) == Figures(balance="0.5000", fan_out="1.3000", rows=3000)
    known = [each.model_copy(update={"nodes": 2}) for each in tables]
    assert counted(known, 1) == Figures(
        balance="0.5000", fan_out="1.3000", node_fan_out="0.2500", beside_attention=True, rows=3000
    )
    paces = (Pace(rows=8, tokens=900, lower=0.0095, median=0.01, upper=0.0105),)
    newer = tables[2].model_copy(update={"paces": paces, "rows_per_second": 100.0, "nodes": 1, "context": 512.25})
    assert counted([newer], 1) == timed(
        Figures(
            balance="0.5000", fan_out="1.3000", node_fan_out="0.0000", beside_attention=True, rows=3000, context="512.2"
        ),
        milliseconds=10,
    )
    few = counted(tables, 2)
    assert few is not None
    assert (few.rows, few.fan_out) == (10, "1.5000")
    assert counted(tables, 3) is None
