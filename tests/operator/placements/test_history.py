"""Which placements may go."""

import pytest
from data_plane import deployment
from placement_objects import content, moved, stored

from moe_operator.api import Condition, ExpertPlacement, Phase
from moe_operator.placements.history import to_prune
from moe_operator.rebalance.schedule import MOST_DOUBLINGS, Past

BODY = content(moved())


def placement(revision: int, phase: str, origin: str = "Operator"):
    return stored(BODY | {"revision": revision, "baseRevision": revision - 1}, {"phase": phase, "origin": origin})


def ended(of: ExpertPlacement) -> ExpertPlacement:
    return of.model_copy(update={"status": of.status.model_copy(update={"phase": Phase.SUPERSEDED})})


def pruned(limit: int, *placements) -> list[int]:
    running = max((p.revision for p in placements if p.status.phase in ("Active", "Migrating")), default=0)
    return [each.revision for each in to_prune(placements, running, limit)]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(0, [5, 6]), (1, [4, 5, 6]), (2, [3, 4, 5, 6]), (4, [1, 2, 3, 4, 5, 6]), (10, [1, 2, 3, 4, 5, 6])],
)
def test_the_oldest_go_first_and_never_what_runs_or_what_to_go_back_to(limit: int, kept: list[int]) -> None:
    history = [placement(revision, "Superseded") for revision in range(1, 6)] + [placement(6, "Active")]
    assert pruned(limit, *reversed(history)) == [each for each in range(1, 7) if each not in kept]


def test_what_a_person_wrote_stays_and_does_not_count() -> None:
    history = [placement(1, "Superseded", "Person"), placement(2, "Superseded"), placement(3, "Failed", "Person")]
    assert pruned(0, *history, placement(4, "Superseded"), placement(5, "Active")) == [2]


def test_what_to_go_back_to_is_the_last_that_was_in_force() -> None:
    history = [placement(1, "Superseded"), placement(2, "Superseded"), placement(3, "Failed"), placement(4, "Rejected")]
    assert pruned(0, *history, placement(5, "Active")) == [1, 3, 4]


def verified(placement: ExpertPlacement) -> ExpertPlacement:
    told = {"type": "Verified", "status": "True", "observedGeneration": 1, "reason": "Verified", "message": ""}
    condition = Condition.model_validate(told | {"lastTransitionTime": "2026-01-01T00:00:00Z"})
    return placement.model_copy(update={"status": placement.status.model_copy(update={"conditions": (condition,)})})


@pytest.mark.parametrize("limit", [1, 10])
def test_the_back_off_does_not_forget_what_was_taken_back_since_one_was_verified(limit: int) -> None:
    """A rollback leaves two objects: the one taken back, and the content before under a revision of its own."""
    moe = deployment()
    history = [placement(1, "RolledBack"), verified(placement(2, "Superseded"))]
    for revision in range(3, 3 + 2 * MOST_DOUBLINGS, 2):
        history[-1] = ended(history[-1])
        history += [placement(revision, "RolledBack"), placement(revision + 1, "Active")]
        gone = set(pruned(limit, *history))
        history = [each for each in history if each.revision not in gone]
        assert Past.of(moe, history).rollbacks == (revision - 1) // 2
    assert 1 not in {each.revision for each in history}
    assert len(history) <= MOST_DOUBLINGS + limit + 2


def test_and_keeps_no_more_of_them_than_count() -> None:
    history = [placement(revision, "RolledBack") for revision in range(1, 41)]
    assert pruned(1, *history, placement(41, "Active")) == list(range(1, 40 - MOST_DOUBLINGS))


def test_once_one_is_verified_they_go() -> None:
    history = [placement(revision, "RolledBack") for revision in range(1, 6)]
    assert pruned(0, *history, verified(placement(6, "Active"))) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("phase", ["Proposed", "Approved", "Migrating", "Verifying", "Active"])
def test_what_is_not_at_its_end_stays(phase: str) -> None:
    assert pruned(0, placement(1, phase), placement(2, "Superseded"), placement(3, "Superseded")) == [2]


def test_what_is_not_known_to_be_the_operators_is_a_persons() -> None:
    unknown = stored(BODY, {"phase": "Failed"})
    assert to_prune([unknown], 0, 0) == ()
