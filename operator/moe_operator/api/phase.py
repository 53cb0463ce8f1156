"""The phases of an ExpertPlacement and the legal ways between them. Pure.

    Proposed ──► Approved ──► Migrating ──► Verifying ──► Active ──► Superseded
     │  └─► Failed ◄─┘            │             ├─► RolledBack            ▲
     └─► Rejected                 └─────────────┴─────────────────────────┘

A pass does not remember what it did before: it tells, in their order, all events that it finds to have happened, and
``advanced`` takes the steps that are still to be taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, StrEnum, auto

from moe_operator.errors import OperatorError


class IllegalTransitionError(OperatorError):
    """An event that cannot happen in this phase."""


class Event(Enum):
    """What can happen to a placement."""

    REJECTED = auto()
    """Somebody decided against it."""
    FAULTED = auto()
    """It turned out to be wrong, or was overtaken before it began."""
    APPROVED = auto()
    """Somebody decided for it."""
    STARTED = auto()
    """The directory was told to go there."""
    ARRIVED = auto()
    """The directory is there: every copy is in place, and what it replaced is freed."""
    KEPT = auto()
    """It stays."""
    REVERTED = auto()
    """It is taken back."""
    OVERTAKEN = auto()
    """The directory was told to go to a later one."""


class Phase(StrEnum):
    """Where a placement is on its way."""

    PROPOSED = "Proposed"
    APPROVED = "Approved"
    MIGRATING = "Migrating"
    VERIFYING = "Verifying"
    ACTIVE = "Active"
    SUPERSEDED = "Superseded"
    ROLLED_BACK = "RolledBack"
    REJECTED = "Rejected"
    FAILED = "Failed"

    def permits(self, event: Event) -> bool:
        """Whether ``event`` can happen in this phase."""
        return event in _WAYS[self]

    def after(self, event: Event) -> Phase:
        """The phase that ``event`` leads to.

        Raises:
            IllegalTransitionError: it cannot happen in this phase.
        """
        if not self.permits(event):
            possible = ", ".join(each.name for each in _WAYS[self]) or "nothing: it is an end"
            raise IllegalTransitionError(f"{event.name} cannot happen to a placement that is {self}; {possible} can")
        return _WAYS[self][event]

    def advanced(self, events: Iterable[Event]) -> Phase:
        """The phase after those of ``events``, in their order, that can still happen."""
        phase = self
        for event in events:
            phase = phase.after(event) if phase.permits(event) else phase
        return phase

    @property
    def is_end(self) -> bool:
        """Whether nothing can happen to it any more."""
        return not _WAYS[self]

    @property
    def is_ahead(self) -> bool:
        """Whether it has not begun."""
        return self in (Phase.PROPOSED, Phase.APPROVED)


_WAYS: dict[Phase, dict[Event, Phase]] = {
    Phase.PROPOSED: {
        Event.REJECTED: Phase.REJECTED,
        Event.FAULTED: Phase.FAILED,
        Event.APPROVED: Phase.APPROVED,
    },
    Phase.APPROVED: {Event.FAULTED: Phase.FAILED, Event.STARTED: Phase.MIGRATING},
    Phase.MIGRATING: {Event.ARRIVED: Phase.VERIFYING, Event.OVERTAKEN: Phase.SUPERSEDED},
    Phase.VERIFYING: {
        Event.KEPT: Phase.ACTIVE,
        Event.REVERTED: Phase.ROLLED_BACK,
        Event.OVERTAKEN: Phase.SUPERSEDED,
    },
    Phase.ACTIVE: {Event.OVERTAKEN: Phase.SUPERSEDED},
    Phase.SUPERSEDED: {},
    Phase.ROLLED_BACK: {},
    Phase.REJECTED: {},
    Phase.FAILED: {},
}
