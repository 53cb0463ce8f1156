"""What a blow cost those who were being served: from what became of each request to a row of the table. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.serving.client import Ask, Outcome, Verdict

PAUSE_S = 6.0
"""No stream may stand still for longer, unless the api that carried it was hit."""


@dataclass(frozen=True, slots=True)
class Blow:
    """Something was killed or frozen.

    Attributes:
        at, ready: ``time.monotonic()`` then, and when all was as before.
        apis: those that were hit, as they sign their answers.
    """

    at: float
    ready: float
    apis: frozenset[str]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one blow.

    Attributes:
        streams: under way at the blow, or begun before all was as before.
        lost: failed with the api that carried them.
        failed: why, of each stream that failed though nothing was wrong with its api.
        wrong: complete answers with other tokens than the reference's.
        pause: the longest silence of any stream but those that were lost, in seconds.
        slow: those that were silent for too long, in words.
        until_ready: seconds.
    """

    streams: int
    lost: int
    failed: tuple[str, ...]
    wrong: int
    pause: float
    until_ready: float
    slow: tuple[str, ...] = ()


def cost(
    blow: Blow, after: Blow | None, outcomes: Iterable[Outcome], is_wrong: Callable[[Ask, Sequence[int]], bool]
) -> Cost:
    """Of the streams that ended after the blow and began before the one ``after`` it, without those lost by that."""
    until = after.at if after else math.inf
    touched = [
        outcome
        for outcome in outcomes
        if outcome.ended > blow.at and outcome.begun < until and not (after and _was_lost(outcome, after))
    ]
    lost = [o for o in touched if _was_lost(o, blow)]
    others = [o for o in touched if o not in lost]
    silent = [o for o in others if blow.at <= o.paused_at + o.pause and o.paused_at < until]
    return Cost(
        streams=len(touched),
        lost=len(lost),
        failed=tuple(f"{o.why} ({o.begun - blow.at:+.1f} s)" for o in others if o.verdict is not Verdict.COMPLETE),
        wrong=sum(is_wrong(o.ask, o.token_ids) for o in others if o.verdict is Verdict.COMPLETE),
        pause=max((o.pause for o in silent), default=0.0),
        until_ready=blow.ready - blow.at,
        slow=tuple(_in_words(o, blow) for o in silent if o.pause > PAUSE_S),
    )


def _in_words(slow: Outcome, blow: Blow) -> str:
    begun, paused = slow.begun - blow.at, slow.paused_at - blow.at
    return f"{slow.pause:.1f} s from {paused:+.1f} s on, begun at {begun:+.1f} s, api {slow.api or 'unknown'}"


def _was_lost(outcome: Outcome, blow: Blow) -> bool:
    """Whether it failed and an api that was hit had it; where no answer had begun, whether one may have had it."""
    if outcome.verdict is Verdict.COMPLETE or outcome.ended <= blow.at:
        return False
    return outcome.api in blow.apis if outcome.api else bool(blow.apis) and outcome.begun < blow.at


def rows(costs: dict[str, list[Cost]]) -> str:
    """The table, a line for each kind of blow."""
    columns = (("", 20), ("times", 6), ("streams", 9), ("lost", 6), ("failed", 8), ("wrong", 7), ("longest pause", 16))
    lines = ["".join(f"{name:>{width}}" for name, width in columns) + f"{'ready again after':>20}"]
    for kind, of_kind in costs.items():
        pauses, ready = [c.pause for c in of_kind], [c.until_ready for c in of_kind]
        lines.append(
            f"{kind:<20}{len(of_kind):>6}{sum(c.streams for c in of_kind):>9}{sum(c.lost for c in of_kind):>6}"
            f"{sum(len(c.failed) for c in of_kind):>8}{sum(c.wrong for c in of_kind):>7}"
            f"{statistics.median(pauses):>9.1f}–{max(pauses):.1f} s{statistics.median(ready):>12.0f}–{max(ready):.0f} s"
        )
    return "\n".join(lines)
