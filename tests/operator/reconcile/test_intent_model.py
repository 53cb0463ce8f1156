"""What shall run, step by step: what the model cannot do, and another model."""

from dataclasses import replace
from typing import Any

import pytest
from intents import desired, told
from moe_facts import FACTS

from moe_contract.applications import application_name
from moe_contract.base import CONTRACT
from moe_contract.model import ModelProblem
from moe_operator.api import Reason
from moe_operator.kube.secrets import KeyHashes
from moe_operator.reconcile.intent import Step
from moe_operator.runtimes.port import Application, ApplicationPhase

CORE = application_name("team", "tiny", "u-1")
ANOTHER_MODEL = FACTS.model_copy(update={"digest": "sha256:2"})


@pytest.mark.parametrize(
    ("experts", "reason", "says"),
    [
        ({"shards": 9}, Reason.TOO_MANY_SHARDS, "spec.experts.shards is 9, but the model has 8 experts"),
        (
            {"shards": 2, "slotsPerShard": 1, "copies": {"min": 2}},
            Reason.INSUFFICIENT_SLOTS,
            "set slotsPerShard to at least 2",
        ),
        ({"shards": 2, "slotsPerShard": 20, "copies": {"min": 2}}, None, ""),
    ],
)
def test_what_the_model_cannot_do(make_plane, experts: Any, reason: Reason | None, says: str) -> None:
    plane = make_plane(**experts)
    plane.run()
    intent = plane.run()
    assert (intent.problem.reason if intent.problem else None) == reason
    if intent.problem:
        assert says in intent.problem.message
        assert told(intent) == ([], (), 0)


def test_a_bad_edit_leaves_what_runs(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run().desired
    plane.change(shards=9)
    assert plane.run().desired == before


def test_what_stays_is_told_under_a_revision_that_the_directory_takes(make_plane) -> None:
    """Somebody else told it of a later one."""
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run().target
    plane.change(shards=9)
    plane.more = {"report": plane.report().model_copy(update={"revision": before.revision + 3})}
    after = plane.run().target
    assert after == before.model_copy(update={"revision": before.revision + 4})
    assert plane.run().target == after


def test_asleep_and_awake(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=0)
    intent = plane.run()
    assert (intent.step, intent.desired) == (Step.SLEEP, None)
    plane.change(shards=2)
    assert told(plane.run()) == ([], (), 0)
    # Revisions never go back, although Ray has forgotten all of them.
    assert told(plane.run()) == ([0, 1], (4, 4), 2)


def test_suspended_nothing_is_written(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=4, spec={"suspend": True})
    assert (plane.decide().step, plane.decide().desired) == (Step.NOTHING, None)


OTHER_MODEL = {"model": {"source": {"path": "models/other"}, "servedName": "other"}}


def test_another_model_starts_when_nothing_of_the_former_is_left(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=2, spec=OTHER_MODEL)
    plane.run()
    intent = plane.run()
    assert (intent.step, intent.desired) == (Step.REPLACE, None)
    plane.applications = {CORE: Application(CORE, ApplicationPhase.STARTING, leaving=True)}
    assert plane.run().step is Step.REPLACE
    plane.applications = {}
    assert told(plane.run()) == ([], (), 0)
    assert desired(plane.run()).model.path == "models/other"


@pytest.mark.parametrize(
    ("candidate", "shards", "reason"),
    [
        (None, 2, None),
        (ModelProblem(reason="PathNotFound", message="no models/other"), 2, Reason.PATH_NOT_FOUND),
        (ANOTHER_MODEL, 9, Reason.TOO_MANY_SHARDS),
    ],
)
def test_what_runs_goes_on_until_the_new_model_is_found_good(make_plane, candidate, shards: int, reason) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run()
    plane.candidate = candidate
    plane.change(shards=shards, spec=OTHER_MODEL)
    for _ in range(3):
        intent = plane.run()
    assert (intent.problem.reason if intent.problem else None) == reason
    was, now = desired(before), desired(intent)
    assert now == replace(was, directory=was.directory.model_copy(update={"candidate": now.directory.candidate}))
    assert now.directory.candidate.path == "models/other"
    # Settings that say nothing of a model need not wait: a key may have to be withdrawn.
    plane.more = {"keys": KeyHashes("i" * 64, ("a" * 64,))}
    assert desired(plane.run()).api.api_key_sha256 == ("a" * 64,)
    plane.more = {}
    # Mended: the files, or the spec.
    plane.candidate = ANOTHER_MODEL
    plane.change(shards=2, spec=OTHER_MODEL)
    assert plane.run().step is Step.REPLACE


def test_what_an_older_release_does_not_know_of_a_model_waits_for_a_newer_one(make_plane) -> None:
    """Its directory would look at the experts as they are in the checkpoint, for ever."""
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=2, weights="FP8")
    problem = plane.run().problem
    assert problem.reason is Reason.OLDER_RELEASE
    assert problem.message.startswith("what runs is of an older release, which does not know weights of the model")
    plane.more = {"report": plane.report().model_copy(update={"contract": CONTRACT})}
    assert plane.run().problem is None


@pytest.mark.parametrize("goes", [False, True])
def test_whether_nodes_go_with_what_runs_is_told_while_a_new_model_is_looked_at(make_plane, goes: bool) -> None:
    """What they have fetched of it goes with them, so who keeps it has to have all of it."""
    plane = make_plane(shards=2)
    plane.more = {"caches_go": goes}
    plane.settle()
    before = plane.run()
    assert not desired(before).directory.caches_go
    plane.candidate = ModelProblem(reason="PathNotFound", message="no models/other")
    plane.change(shards=2, spec=OTHER_MODEL)
    assert desired(plane.run()).directory.caches_go is goes
    plane.change(shards=2)
    assert plane.run().desired == before.desired


def test_a_model_that_is_taken_back_changes_nothing(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.run()
    plane.candidate = ModelProblem(reason="PathNotFound", message="no models/other")
    plane.change(shards=2, spec=OTHER_MODEL)
    assert plane.run().desired != before.desired
    plane.change(shards=2)
    assert plane.run().desired == before.desired


def test_another_model_waits_for_nobody_where_nothing_is_served(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.answers = False
    plane.change(shards=2, spec=OTHER_MODEL)
    # A directory that is away for a moment is waited for.
    plane.more = {"report_failing_seconds": 3.0}
    assert plane.run().step is Step.RUN
    plane.more = {"report_failing_seconds": 31.0}
    assert plane.run().step is Step.REPLACE
    fresh = make_plane(shards=2)
    fresh.answers = False
    fresh.run(), fresh.tell()
    fresh.change(shards=2, spec=OTHER_MODEL)
    assert fresh.run().step is Step.REPLACE


def test_the_directory_is_told_of_which_model_a_placement_is(make_plane) -> None:
    plane = make_plane(shards=2, slotsPerShard=8)
    plane.settle()
    before = plane.run().target
    assert before.model_digest == "", "the first release does not know of it"
    plane.more = {"report": plane.report().model_copy(update={"contract": CONTRACT})}
    assert plane.decide().target == before.model_copy(update={"model_digest": FACTS.digest})
