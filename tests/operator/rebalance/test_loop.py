"""What a look means beside the proposals that are there, and when the operator decides for one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from placement_objects import content, moved, stored

from moe_operator.api import ExpertPlacement, MoEDeployment, RebalanceReason
from moe_operator.api.status import TIME_FORMAT, LastDecision, RebalanceStatus
from moe_operator.placements.book import Book
from moe_operator.placements.content import content_of
from moe_operator.rebalance.loop import Look, conclude, to_approve
from moe_operator.rebalance.proposal import Predicted, Price, Proposal

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FORETOLD = {"balance": "0.9000", "fanOut": "1.2000", "nodeFanOut": "0.0000"}


def deployment(**rebalance: Any) -> MoEDeployment:
    asked = {"mode": "Auto", "interval": "5m", "cooldown": "30m", **rebalance}
    ray = {"dashboardURL": "http://127.0.0.1:8265", "serveURL": "http://127.0.0.1:8000"}
    spec = {"model": {"source": {"path": "models/tiny"}}, "runtime": {"rayCluster": ray}}
    raw = {
        "apiVersion": "moe-operator.io/v1alpha1",
        "kind": "MoEDeployment",
        "metadata": {"name": "tiny", "namespace": "team", "generation": 1, "uid": "u"},
        "spec": {**spec, "rebalance": asked},
    }
    return MoEDeployment.parse(raw)


def proposal(revision: int, **status: Any) -> ExpertPlacement:
    told = {"phase": "Proposed", "origin": "Operator", "predicted": FORETOLD, **status}
    return stored(content(moved(), revision, 1), told)


def running(arrived: datetime | None = None) -> ExpertPlacement:
    since = (arrived or NOW - timedelta(days=1)).strftime(TIME_FORMAT)
    condition = {
        "type": "Migrated", "status": "True", "reason": "InForce", "message": "", "observedGeneration": 1,
        "lastTransitionTime": since,
    }  # fmt: skip
    return stored(content(moved(), 1, 0), {"phase": "Active", "origin": "Operator", "conditions": [condition]})


def accepted(revision: int | None, age: timedelta = timedelta()) -> RebalanceStatus:
    time = (NOW - age).strftime(TIME_FORMAT)
    decision = LastDecision(time=time, result="Accepted", reason="GainPays", message="", revision=revision)
    return RebalanceStatus(last_decision=decision)


@pytest.mark.parametrize(
    ("told", "book", "rebalance", "approved"),
    [
        (accepted(2), [proposal(2)], {}, 2),
        (accepted(2, timedelta(minutes=9)), [proposal(2)], {}, 2),
        (accepted(2, timedelta(minutes=11)), [proposal(2)], {}, None),
        (accepted(2, timedelta(minutes=11)), [proposal(2)], {"interval": "6m"}, 2),
        (accepted(2, -timedelta(days=1)), [proposal(2)], {}, None),
        (accepted(3), [proposal(2), proposal(3)], {}, 3),
        (accepted(2), [proposal(2), proposal(3)], {}, None),
        (accepted(None), [proposal(2)], {}, None),
        (accepted(2), [proposal(2, predicted=None)], {}, None),
        (accepted(2), [proposal(2)], {"mode": "Propose"}, None),
        (accepted(2), [proposal(2)], {"windows": [{"cron": "0 2 * * *", "duration": "1h"}]}, None),
        (accepted(2), [proposal(2)], {"windows": [{"cron": "0 3 * * *", "duration": "1h"}]}, 2),
        (accepted(2), [running(NOW - timedelta(minutes=29)), proposal(2)], {}, None),
        (accepted(2), [running(NOW - timedelta(minutes=31)), proposal(2)], {}, 2),
    ],
)  # fmt: skip
def test_what_the_operator_decides_for(
    told: RebalanceStatus, book: list[ExpertPlacement], rebalance: dict[str, Any], approved: int | None
) -> None:
    found = to_approve(deployment(**rebalance), told, Book.of(book), 1, NOW)
    assert (found and found.revision) == approved


def found(revision: int) -> Proposal:
    return Proposal(
        True, RebalanceReason.GAIN_PAYS, "gain 12%", content=content_of(moved(), revision, 1, "sha256:0"),
        after=Predicted(0.5, 1.9, 0.0), price=Price(1, 1, 1.0),
    )  # fmt: skip


@pytest.mark.parametrize(("minutes", "stands"), [(0, True), (59, True), (61, False), (3 * 24 * 60, False)])
def test_a_proposal_stands_for_an_hour_beside_one_that_foretells_the_same(minutes: int, stands: bool) -> None:
    """Its price, and what it is judged by later, are of the traffic it was made for."""
    since = (NOW - timedelta(minutes=minutes)).strftime(TIME_FORMAT)
    pending = {
        "type": "Approved", "status": "False", "reason": "Pending", "message": "", "observedGeneration": 1,
        "lastTransitionTime": since,
    }  # fmt: skip
    told = {"balance": "0.5000", "fanOut": "1.9000", "nodeFanOut": "0.0000"}
    before = proposal(2, predicted=told, conditions=[pending])
    last = conclude(Look(NOW, 1, found(3)), deployment(), Book.of([before]))
    assert last.decision.result == "Accepted"
    assert (last.decision.revision, last.proposed) == ((2, None) if stands else (3, found(3)))


@pytest.mark.parametrize(
    ("met", "moves", "now", "stands"),
    [
        ({}, 10, {}, True),
        ({}, 10, {"price": Price(8, 1, 1.0)}, True),
        ({}, 10, {"price": Price(7, 1, 1.0)}, False),
        ({}, 10, {"price": Price(30, 1, 1.0)}, True),
        ({}, 10, {"after": Predicted(0.53, 1.9, 0.0)}, False),
        ({}, 10, {"after": Predicted(0.5, 1.9, None)}, False),
        # What runs meets other traffic by now: another gain, though the same is foretold.
        ({}, 10, {"met": Predicted(0.46, 2.14, 0.0)}, True),
        ({}, 10, {"met": Predicted(0.4, 2.2, 0.0)}, False),
        ({"balance": "0.4000", "fanOut": "2.2000"}, 10, {"met": Predicted(0.4, 2.2, None)}, True),
        ({"balance": "0.4000", "fanOut": "much"}, 10, {"met": Predicted(0.4, 2.2, None)}, False),
    ],
)
def test_a_proposal_that_brings_the_same_stands_by_what_it_meets_and_costs(
    met: dict[str, str], moves: int, now: dict[str, Any], stands: bool
) -> None:
    status = {
        "predicted": {"balance": "0.5000", "fanOut": "1.9000", "nodeFanOut": "0.0000"},
        "before": met or {"balance": "0.4500", "fanOut": "2.1000", "nodeFanOut": "0.0000"},
        "price": {"moves": moves, "bytes": 1},
    }
    another = replace(found(3), **{"met": Predicted(0.45, 2.1, 0.0), "price": Price(moves, 1, 1.0), **now})
    last = conclude(Look(NOW, 1, another), deployment(), Book.of([proposal(2, **status)]))
    assert last.decision.revision == (2 if stands else 3)


def test_as_many_proposals_are_made_of_one_base_as_can_be_numbered() -> None:
    last = conclude(Look(NOW, 1, found(1001)), deployment(), Book.of([proposal(1000)]))
    assert (last.decision.result, last.decision.revision, last.proposed) == ("Accepted", 1001, found(1001))
    # Then those that are over and gone give theirs; what nobody decided on leaves first.
    book = Book.of([proposal(1000), proposal(1001)], taken=(2, 3, 5))
    again = conclude(Look(NOW, 1, found(1002)), deployment(), book)
    assert (again.decision.result, again.decision.revision, again.proposed) == ("Accepted", 4, found(4))
    assert [each.revision for each in again.instead] == [1000, 1001]
    assert last.instead == ()
    # Who writes as many is told.
    more = conclude(Look(NOW, 1, found(1002)), deployment(), Book.of([proposal(1001)], taken=range(2, 1002)))
    assert (more.decision.result, more.proposed, more.instead) == ("Failed", None, ())
    assert "all 1000 revisions above 1, which runs, and a higher one cannot be written" in more.decision.message
