"""Who wrote what runs."""

from typing import Any

import pytest
from placement_objects import content, stored

from moe_operator.api import ExpertPlacement
from moe_operator.placements.book import Book
from moe_placement import balanced_placement

PLACEMENT = balanced_placement(2, 8, (4, 4))
FORETOLD = {"predicted": {"balance": "0.9", "fanOut": "2.0", "nodeFanOut": "0.0"}}


def xp(revision: int, base: int, origin: str, phase: str, **status: Any) -> ExpertPlacement:
    told = {"origin": origin, "phase": phase, **status}
    return stored(content(PLACEMENT, revision, base), told, decision="Approved")


PERSONS = xp(2, 1, "Person", "Superseded")
TAKEN_BACK = xp(3, 2, "Operator", "RolledBack", **FORETOLD)
AGAIN = xp(4, 2, "Operator", "Superseded")


@pytest.mark.parametrize(
    ("placements", "revision", "author"),
    [
        ([], 2, None),
        ([PERSONS], 2, "Person"),
        ([PERSONS, xp(3, 2, "Operator", "Active")], 3, "Operator"),
        ([PERSONS, TAKEN_BACK, xp(4, 2, "Operator", "Active")], 4, "Person"),
        # Of what is taken back that is told right after what ran before has an object again.
        ([PERSONS, xp(3, 2, "Operator", "Verifying", **FORETOLD), xp(4, 2, "Operator", "Migrating")], 4, "Person"),
        # What it went back to is gone: the operator's, which are removed in time.
        ([TAKEN_BACK, xp(4, 2, "Operator", "Active")], 4, "Operator"),
        ([PERSONS, TAKEN_BACK, xp(4, 2, "Operator", "Active", **FORETOLD)], 4, "Operator"),
        # Twice; with another one of the operator's in between.
        ([PERSONS, TAKEN_BACK, AGAIN, xp(5, 4, "Operator", "RolledBack"), xp(6, 4, "Operator", "Active")], 6, "Person"),
        (
            [
                *(PERSONS, TAKEN_BACK, AGAIN),
                xp(5, 4, "Operator", "Superseded"),
                xp(6, 5, "Operator", "RolledBack"),
                xp(7, 5, "Operator", "Active"),
            ],
            7,
            "Operator",
        ),
    ],
)
def test_who_wrote_what_runs(placements: list[ExpertPlacement], revision: int, author: str | None) -> None:
    book = Book.of(placements)
    assert book.author(revision) == author
    assert book.for_choice(revision).author(revision) == author
