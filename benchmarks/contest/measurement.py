"""One model with contestants that run in turn: their processes, and rows for each batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

from benchmarks.contest import figures, limit
from benchmarks.contest.contestants import BASELINE, CONTESTANTS, teams
from benchmarks.contest.equality import verdicts
from benchmarks.contest.machine import BUSY_CORES, busy_cores
from benchmarks.contest.report import Report
from benchmarks.contest.rounds import interleaved, prompts
from benchmarks.contest.runs import Run, Setting, Tokens
from benchmarks.contest.team import Team
from benchmarks.serving.client import Ask
from benchmarks.serving.judge import Judge

MB = 1e6


def measure(
    model: str,
    vocabulary: int,
    setting: Setting,
    stage: Sequence[str],
    batches: Iterable[int],
    rounds: int,
    report: Report,
) -> None:
    """All batches with the contestants of ``stage``, the baseline first.

    Args:
        model: its name.

    Raises:
        TeamError: a contestant has failed.
    """
    with ExitStack() as stack:
        opened = {name: stack.enter_context(Team(name, setting, wanted)) for name, wanted in teams(stage).items()}
        threads = {name: team.wait_open() for name, team in opened.items()}
        busy = busy_cores()
        bandwidth = opened[CONTESTANTS[BASELINE].team].bandwidth()
        report.note(threads=threads, busy_cores=round(busy, 2), bandwidth_gb_s=round(bandwidth / 1e9, 1))
        if busy > BUSY_CORES:
            report.warn(
                f"{busy:.1f} cores are busy though all contestants rest: ratios mean little; stop what else runs"
            )
        by_name = {name: opened[CONTESTANTS[name].team] for name in stage}
        for batch in batches:
            case = figures.Case(model, setting.dtype, batch, setting.prompt, setting.tokens)
            asked = prompts(batch, setting.prompt, vocabulary)
            report.add(case, _rows(case, setting, by_name, asked, rounds, bandwidth))


def _rows(
    case: figures.Case,
    setting: Setting,
    by_name: Mapping[str, Team],
    asked: Sequence[Tokens],
    rounds: int,
    bandwidth: float,
) -> list[figures.Row]:
    # The baseline first: the others of its process go by what it finds to be fastest.
    how: dict[str, str] = {name: team.call(name, "warm_up", asked) for name, team in by_name.items()}

    def run(name: str) -> Run:
        answered: Run = by_name[name].call(name, "run", asked, case.tokens)
        return answered

    runs = interleaved(tuple(by_name), rounds, run)
    step: limit.StepBytes = by_name[BASELINE].call(BASELINE, "step_bytes", asked, case.tokens)
    most = limit.tokens_per_second(step, case.batch, bandwidth)
    read = f"{step.total / MB:,.0f} MB a step, {step.experts / MB:,.0f} of experts"
    tokens = _verdicts(setting, by_name, asked, runs) if case.dtype == "float32" else dict.fromkeys(runs, "")
    return [*figures.rows(case, runs, how, tokens), figures.limit_row(case, runs, most, read)]


def _verdicts(
    setting: Setting, by_name: Mapping[str, Team], asked: Sequence[Tokens], runs: Mapping[str, Sequence[Run]]
) -> dict[str, str]:
    judges: dict[str, Judge] = {}

    def is_wrong(name: str, ask: Ask, answer: Tokens) -> bool:
        def resume(rest: Ask) -> Tokens:
            again: Run = by_name[name].call(name, "run", [rest.prompt], rest.max_tokens)
            return again.ids[0]

        if name not in judges:
            judges[name] = Judge(setting.model, resume)
        return judges[name].is_wrong(ask, answer)

    return verdicts(asked, runs, is_wrong)
