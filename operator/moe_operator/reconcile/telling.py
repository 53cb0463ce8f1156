"""When a status is written: at once where something became of the object, seldom where only words or figures moved.

Pure. A write costs the API server, its store and everybody who watches, and much of a status is another program's words
and figures, which may change at every look. What is held back is written when its time comes, or with the next news.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from moe_operator.allowance import Allowance
from moe_operator.api import ConditionType, MoEDeploymentStatus
from moe_operator.reconcile.load import LOAD_SECONDS

WORDS_SECONDS = 30.0
"""Between two writes that bring nothing but other words and figures; doubled each time, as long as that goes on."""
WORDS_CAP_SECONDS = 300.0


class News(Enum):
    """The most that a status brings beyond what is told already."""

    NOTHING = auto()
    WORDS = auto()
    """Other messages and figures."""
    LOAD = auto()
    """Where it is busy; which moves whenever requests are answered."""
    REASONS = auto()
    """A condition has another status or reason, or what others act on is another one: the spec, the number of shards,
    the URL, the placement; the first figures of a placement; another outcome of a look at the traffic; a decision on
    the number of shards."""
    READY = auto()
    """Whether it is ready."""


def news(before: MoEDeploymentStatus, after: MoEDeploymentStatus) -> News:
    """What ``after`` brings to somebody who knows ``before``."""
    if after == before:
        return News.NOTHING
    if _status_of_ready(before) != _status_of_ready(after):
        return News.READY
    if _reasons(before) != _reasons(after):
        return News.REASONS
    return News.LOAD if before.load != after.load else News.WORDS


def _status_of_ready(status: MoEDeploymentStatus) -> str | None:
    ready = status.condition(ConditionType.READY)
    return ready.status if ready else None


def _reasons(status: MoEDeploymentStatus) -> tuple[object, ...]:
    conditions = tuple((each.type, each.status, each.reason) for each in status.conditions)
    placed = status.placement
    placement = (placed.revision, placed.balance is None) if placed else None
    decided = status.rebalance.last_decision if status.rebalance else None
    decision = (decided.result, decided.reason, decided.revision) if decided else None
    scaled = status.autoscaling
    scaling = (scaled.decisions[:1], scaled.min_shards, scaled.max_shards, scaled.wrote) if scaled else None
    # Autoscalers reckon with the number of shards.
    return status.observed_generation, status.shards, status.url, placement, decision, scaling, conditions


@dataclass(slots=True)
class Telling:
    """When the status of one object may be written. A new process knows nothing of former writes and begins anew."""

    _ready: Allowance = field(default_factory=lambda: Allowance(burst=10, seconds=5.0))
    _reasons: Allowance = field(default_factory=lambda: Allowance(burst=6, seconds=5.0))
    _words_wait: float = WORDS_SECONDS
    _at: float | None = None
    _load_at: float | None = None

    def wait(self, what: News, now: float) -> float:
        """Seconds for which a write with such news is held back."""
        if what is News.READY:
            return self._ready.wait(now)
        if what is News.REASONS:
            return self._reasons.wait(now)
        if what is News.LOAD and self._load_at is not None:
            return max(0.0, self._load_at + LOAD_SECONDS - now)
        if what is News.WORDS and self._at is not None:
            return max(0.0, self._at + self._words_wait - now)
        return 0.0

    def written(self, what: News, now: float) -> None:
        """A write with such news was made."""
        if what is News.READY:
            self._ready.take(now)
        elif what is News.REASONS:
            self._reasons.take(now)
        if what is News.LOAD:
            # Words go with it, and wait no less for themselves than they would without.
            self._load_at = now
        else:
            words_again = what is News.WORDS and self._at is not None
            self._words_wait = min(2.0 * self._words_wait, WORDS_CAP_SECONDS) if words_again else WORDS_SECONDS
        self._at = now
