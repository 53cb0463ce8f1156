"""From runs to rows, and their table. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contest.contestants import BASELINE
from benchmarks.contest.runs import Run

LIMIT = "memory limit"
"""Name of the row that nobody ran."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles over rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant with one batch of one model.

    Attributes:
        stage: who ran in turn with it, so that ratios are to the baseline among these.
        prefill, decode: tokens a second, of prompts and of answers behind their first tokens.
        prefill_ratio, decode_ratio: to the baseline of the same round, more is faster.
        how: what it chose, in words.
        tokens: whether its answers are the baseline's, in words.
    """

    model: str
    dtype: str
    batch: int
    stage: tuple[str, ...]
    contestant: str
    prefill: Spread | None
    prefill_ratio: Spread | None
    decode: Spread
    decode_ratio: Spread
    how: str = ""
    tokens: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """What was measured: a batch of prompts of ``prompt`` tokens, ``tokens`` answered to each."""

    model: str
    dtype: str
    batch: int
    prompt: int
    tokens: int


def rows(case: Case, runs: Mapping[str, Sequence[Run]], how: Mapping[str, str], tokens: Mapping[str, str]) -> list[Row]:
    """A row for each contestant; ``runs`` are by rounds and have the baseline's."""
    base_prefill, base_decode = (_rates(case, runs[BASELINE], phase) for phase in (_prefill, _decode))
    found = []
    for name, own in runs.items():
        prefill, decode = _rates(case, own, _prefill), _rates(case, own, _decode)
        found.append(
            Row(
                model=case.model,
                dtype=case.dtype,
                batch=case.batch,
                stage=tuple(runs),
                contestant=name,
                prefill=Spread.of(prefill),
                prefill_ratio=Spread.of(_ratios(prefill, base_prefill)),
                decode=Spread.of(decode),
                decode_ratio=Spread.of(_ratios(decode, base_decode)),
                how=how[name],
                tokens=tokens[name],
            )
        )
    return found


def limit_row(case: Case, runs: Mapping[str, Sequence[Run]], rate: float, how: str) -> Row:
    """Of decoding alone: the prefill is not bound by memory."""
    ratios = [rate / each for each in _rates(case, runs[BASELINE], _decode)]
    most = Spread(rate, rate, rate)
    return Row(case.model, case.dtype, case.batch, tuple(runs), LIMIT, None, None, most, Spread.of(ratios), how)


def table(case: Case, found: Iterable[Row]) -> str:
    """For people; ratios with their quartiles."""
    lines = [
        f"{case.model}, {case.dtype}, batch {case.batch}: prompts of {case.prompt} tokens, answers of {case.tokens}",
        f"{'':<14}{'prefill tok/s':>26}{'of ' + BASELINE:>22}{'decode tok/s':>26}{'of ' + BASELINE:>22}  tokens",
    ]
    for row in found:
        cells = (_rate(row.prefill), _ratio(row.prefill_ratio), _rate(row.decode), _ratio(row.decode_ratio))
        widths = (26, 22, 26, 22)
        numbers = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{row.contestant:<14}{numbers}  {', '.join(filter(None, (row.tokens, row.how)))}".rstrip())
    return "\n".join(lines)


def _prefill(case: Case, run: Run) -> float:
    return case.batch * case.prompt / run.first_s


def _decode(case: Case, run: Run) -> float:
    return run.later / run.later_s


def _rates(case: Case, runs: Sequence[Run], phase: Callable[[Case, Run], float]) -> list[float]:
    return [phase(case, run) for run in runs]


def _ratios(own: Sequence[float], base: Sequence[float]) -> list[float]:
    return [mine / theirs for mine, theirs in zip(own, base, strict=True)]


def _rate(spread: Spread | None) -> str:
    return "–" if spread is None else f"{_number(spread.median)} ({_number(spread.low)}–{_number(spread.high)})"


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _ratio(spread: Spread | None) -> str:
    return "–" if spread is None else f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"
