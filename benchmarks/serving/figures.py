"""From outcomes to figures. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.serving.client import Ask, Outcome, Verdict

FIRST_TOKEN_S = 5.0
"""An answer whose first token takes longer does no good."""
WORTHY = 0.98
"""Of the answers offered must be completed, or the server is saturated."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds; NaN of nothing."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one phase of the traffic.

    Attributes:
        seconds: its length.
        offered, failed, refused, cut_off: of the requests that arrived in it.
        complete: answers that ended in it, whenever they were asked for.
        good: of these with a first token within ``FIRST_TOKEN_S`` and a median gap within the bound.
        wrong: complete answers to requests that arrived in it; None where nobody judged.
        first, gap: of what was answered of the requests that arrived in it: the first token, and each later one.
        client_cpu: cores that the measuring process itself took, over the whole run.
        reasons: of failures, with their numbers.
    """

    phase: str
    seconds: float
    offered: int
    complete: int
    good: int
    failed: int
    refused: int
    cut_off: int
    wrong: int | None
    first: Percentiles
    gap: Percentiles
    client_cpu: float
    reasons: dict[str, int]

    @property
    def completed_share(self) -> float:
        """Of what was offered; more than 1 where a queue was emptied."""
        return self.complete / self.offered if self.offered else math.nan

    @property
    def goodput(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds


def figures(
    phase: str,
    begin: float,
    seconds: float,
    outcomes: Iterable[Outcome],
    *,
    longest_gap_s: float = math.inf,
    is_wrong: Callable[[Ask, Sequence[int]], bool] | None = None,
    client_cpu: float = math.nan,
) -> Figures:
    """Of the ``seconds`` from ``begin`` (``time.monotonic()``) on.

    Args:
        outcomes: also those from before, some of which end now.
        longest_gap_s: bound on the median gap of a good answer.
    """
    end = begin + seconds
    every = list(outcomes)
    arrived = [outcome for outcome in every if begin <= outcome.begun < end]
    completed = [o for o in every if o.verdict is Verdict.COMPLETE and begin <= o.ended < end]
    verdicts = Counter(outcome.verdict for outcome in arrived)
    return Figures(
        phase=phase,
        seconds=seconds,
        offered=len(arrived),
        complete=len(completed),
        good=sum(is_good(outcome, longest_gap_s) for outcome in completed),
        failed=verdicts[Verdict.FAILED],
        refused=verdicts[Verdict.REFUSED],
        cut_off=verdicts[Verdict.CUT_OFF],
        wrong=sum(is_wrong(o.ask, o.token_ids) for o in arrived if o.verdict is Verdict.COMPLETE) if is_wrong else None,
        first=percentiles(o.first - o.begun for o in arrived if o.first is not None),
        gap=percentiles(gap for o in arrived for gap in o.gaps),
        client_cpu=client_cpu,
        reasons=dict(Counter(o.why for o in arrived if o.verdict is Verdict.FAILED)),
    )


def is_good(outcome: Outcome, longest_gap_s: float) -> bool:
    """Complete, soon begun and steadily told."""
    if outcome.verdict is not Verdict.COMPLETE or outcome.first is None:
        return False
    gap = statistics.median(outcome.gaps) if outcome.gaps else 0.0
    return outcome.first - outcome.begun <= FIRST_TOKEN_S and gap <= longest_gap_s


def percentiles(values: Iterable[float]) -> Percentiles:
    """By the nearest rank."""
    ranked = sorted(values)

    def at(share: float) -> float:
        return ranked[max(math.ceil(share * len(ranked)) - 1, 0)] if ranked else math.nan

    return Percentiles(at(0.5), at(0.95), at(0.99))
