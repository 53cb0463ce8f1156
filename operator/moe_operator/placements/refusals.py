"""What the API server refused of the objects, and when each is tried again. Pure.

A write carries the whole object, and what stands in its way (a quota, a right, an admission policy) mostly lasts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from moe_operator.delays import doubled
from moe_operator.kube.errors import KubeError
from moe_operator.recent import Recent

FIRST_SECONDS = 2.0
CAP_SECONDS = 120.0
"""Between two attempts at the same write: after the first refusal, and at most."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    error: KubeError
    times: int
    not_before: float


@dataclass(slots=True)
class Refusals:
    """What was refused, by what was tried. Times are of a monotonic clock."""

    _refusals: Recent[str, _Refusal] = field(default_factory=Recent)

    def is_due(self, what: str, now: float) -> bool:
        """Whether ``what`` may be tried."""
        refusal = self._refusals.get(what)
        return refusal is None or refusal.not_before <= now

    def note(self, what: str, error: KubeError, now: float) -> None:
        """Note that it was refused once more."""
        before = self._refusals.get(what)
        times = before.times + 1 if before else 0
        self._refusals.put(what, _Refusal(error, times, now + doubled(FIRST_SECONDS, CAP_SECONDS, times)))

    def forget(self, what: str) -> None:
        """Forget it: it succeeded, or is not wanted any more."""
        self._refusals.pop(what)

    def first(self, of: Iterable[str]) -> KubeError | None:
        """The refusal of the first of these that stands."""
        found = (refusal for what in of if (refusal := self._refusals.get(what)))
        return next((refusal.error for refusal in found), None)
