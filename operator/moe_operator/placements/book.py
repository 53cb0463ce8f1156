"""The ExpertPlacements of one deployment, in order. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count

from moe_operator.api import ExpertPlacement, Phase
from moe_operator.api.placement import Decision, Origin

MOST_AHEAD = 8
"""Placements that have not begun and are looked at. Whoever may create one can create many, and reading a large one
takes milliseconds."""
_BY_DECISION = {Decision.APPROVED: 0, Decision.PENDING: 1, Decision.REJECTED: 2}
_IN_FORCE = frozenset({Phase.MIGRATING, Phase.VERIFYING, Phase.ACTIVE})
_RAN = _IN_FORCE | {Phase.SUPERSEDED}
_BEGUN = _RAN | {Phase.ROLLED_BACK}


@dataclass(frozen=True)
class Book:
    """Attributes:
    placements: by revision.
    taken: revisions of all there are, also of those that are left out here or that nobody can read.
    """

    placements: tuple[ExpertPlacement, ...] = ()
    taken: frozenset[int] = frozenset()

    @classmethod
    def of(cls, placements: Iterable[ExpertPlacement], taken: Iterable[int] = ()) -> Book:
        """The book of all placements of a deployment. ``taken``: revisions of further ones."""
        ordered = tuple(sorted(placements, key=lambda each: each.revision))
        return cls(ordered, frozenset(each.revision for each in ordered) | frozenset(taken))

    def for_choice(self, revision: int) -> Book:
        """The part that a choice is made from; the rest may be many. ``revision``: what runs."""
        before = self.before(revision)
        some = (*self.ahead, *self.in_force, *([before] if before else []), *self.proposed[-1:])
        kept = {each.revision for each in some} | {revision}
        kept |= {each.spec.content.base_revision for each in self.in_force}
        kept |= {each.revision for step in self._steps_back(revision) for each in step if each}
        return Book(tuple(each for each in self.placements if each.revision in kept), self.taken)

    def replacing(self, revision: int, placement: ExpertPlacement | None) -> Book:
        """The book with another placement at ``revision``, or none."""
        others = (each for each in self.placements if each.revision != revision)
        return Book.of((*others, *([placement] if placement else ())), self.taken)

    def first_free(self, revision: int) -> int:
        """The least revision above that has no object, and so may be given to one."""
        return next(number for number in count(revision + 1) if number not in self.taken)

    def at(self, revision: int) -> ExpertPlacement | None:
        """The placement of a revision."""
        return next((each for each in self.placements if each.revision == revision), None)

    def before(self, revision: int) -> ExpertPlacement | None:
        """The last placement that ran before a revision."""
        return self._last(_RAN, revision)

    def author(self, revision: int) -> Origin | None:
        """Who wrote what a revision says. Where it was made to take another one back, that is whoever wrote what it
        went back to. None where there is no object that tells.

        An object that is gone on the way back was the operator's: it removes nothing that a person wrote.
        """
        found = [own for own, _ in self._steps_back(revision) if own]
        return found[-1].status.origin if found else None

    def _steps_back(self, revision: int) -> Iterator[tuple[ExpertPlacement | None, ExpertPlacement | None]]:
        """The object of a revision, with what was begun right before it; where it took that back, likewise of the
        revision that it went back to, and so on."""
        own = self.at(revision)
        last = self._last(_BEGUN, revision) if own else None
        yield own, last
        if own and last and _took_back(own, last) and last.spec.content.base_revision < last.revision:
            yield from self._steps_back(last.spec.content.base_revision)

    def _last(self, phases: Collection[Phase], revision: int) -> ExpertPlacement | None:
        ran = (each for each in self.placements if phase_of(each) in phases and each.revision < revision)
        return max(ran, key=lambda each: each.revision, default=None)

    @cached_property
    def ahead(self) -> tuple[ExpertPlacement, ...]:
        """Placements that have not begun, as many as are looked at: what nobody decided on stands in no approved one's
        way, nor does what waits for a revision that is still to come in the way of what may be next."""
        return self._not_begun[:MOST_AHEAD]

    @cached_property
    def proposed(self) -> tuple[ExpertPlacement, ...]:
        """Proposals of the operator's on which nobody has decided. Only what one foretells shows that it is the
        operator's: the name under which fields are set may be anybody's."""
        return tuple(each for each in self.placements if is_proposal(each) and _is_undecided(each))

    def superseded_by(self, placement: ExpertPlacement) -> int | None:
        """Revision of the proposal that takes the place of an earlier one on which nobody has decided, even if the
        operator had no time to tell what the later one foretells."""
        last = self.proposed[-1].revision if self.proposed else 0
        own = placement.status.origin is Origin.OPERATOR and _is_undecided(placement)
        return last if own and placement.revision < last else None

    @property
    def beyond(self) -> tuple[ExpertPlacement, ...]:
        """Placements that have not begun, beyond those that are looked at."""
        return self._not_begun[MOST_AHEAD:]

    @cached_property
    def _not_begun(self) -> tuple[ExpertPlacement, ...]:
        return tuple(sorted((each for each in self.placements if phase_of(each).is_ahead), key=_turn))

    @cached_property
    def in_force(self) -> tuple[ExpertPlacement, ...]:
        """Placements that were begun and not replaced, as far as their statuses tell."""
        return tuple(each for each in self.placements if phase_of(each) in _IN_FORCE)

    @property
    def characters(self) -> int:
        """Characters of all contents."""
        return sum(sum(map(len, each.spec.content.layers)) for each in self.placements)


def _turn(placement: ExpertPlacement) -> tuple[int, int, int]:
    return _BY_DECISION[placement.spec.decision], placement.spec.content.base_revision, placement.revision


def _took_back(own: ExpertPlacement, last: ExpertPlacement) -> bool:
    """Whether the operator made ``own`` to take ``last`` back, even if that is still to be told of ``last``."""
    made = own.status.origin is Origin.OPERATOR and not is_proposal(own)
    return made and phase_of(last) in (Phase.ROLLED_BACK, Phase.VERIFYING)


def is_proposal(placement: ExpertPlacement) -> bool:
    """Whether the operator wrote the placement for what it foretells."""
    return placement.status.origin is Origin.OPERATOR and placement.status.predicted is not None


def _is_undecided(placement: ExpertPlacement) -> bool:
    return phase_of(placement) is Phase.PROPOSED and placement.spec.decision is Decision.PENDING


def phase_of(placement: ExpertPlacement) -> Phase:
    """The phase that its status tells; the first one where nobody has looked at it."""
    return placement.status.phase or Phase.PROPOSED
