"""Which placements may go."""

import pytest
from placement_objects import content, moved, stored

from moe_operator.placements.history import to_prune

BODY = content(moved())


def placement(revision: int, phase: str, origin: str = "Operator"):
    return stored(BODY | {"revision": revision, "baseRevision": revision - 1}, {"phase": phase, "origin": origin})


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
    history = [
        placement(1, "Superseded"),
        placement(2, "Superseded"),
        placement(3, "Failed"),
        placement(4, "RolledBack"),
    ]
    assert pruned(0, *history, placement(5, "Active")) == [1, 3, 4]


@pytest.mark.parametrize("phase", ["Proposed", "Approved", "Migrating", "Verifying", "Active"])
def test_what_is_not_at_its_end_stays(phase: str) -> None:
    assert pruned(0, placement(1, phase), placement(2, "Superseded"), placement(3, "Superseded")) == [2]


def test_what_is_not_known_to_be_the_operators_is_a_persons() -> None:
    unknown = stored(BODY, {"phase": "Failed"})
    assert to_prune([unknown], 0, 0) == ()
