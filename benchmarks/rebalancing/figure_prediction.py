"""Figure 3: what plans foretell, measured: recorded traffic is sent through real shards before and after the move.

A plan can be wrong in two ways, which are told apart: the figures of a placement for a given traffic may not be those
that the data plane counts, and the traffic may not be what it was when the plan was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.brain.report import Row
from benchmarks.rebalancing.plans import Case, cases, counted
from benchmarks.rebalancing.replay import Replay, replay, stand_in
from benchmarks.rebalancing.sizes import Sizes
from benchmarks.rebalancing.stage import be_patient
from moe_placement import Decision, Figures, Observed, one_host, verify
from moe_placement.traces import Trace, read_trace

FIGURE = 3
TRACES = Path(__file__).resolve().parents[2] / "traces"
RECORDED = {"tiny": ("tiny-16x2.npz", 4, 5), "larger": ("wide-64x8.npz", 8, 9)}
"""File, shards, slots of a shard: an eighth to a quarter more than there are experts."""
FAN_OUT, BALANCE, SIGNS, REGRETTED = 0.02, 0.02, 0.95, 0.10


@dataclass(frozen=True, slots=True)
class Measured:
    """Attributes:
    before, after: the move, of the same unseen prompts.
    """

    case: Case
    before: Observed
    after: Observed

    def off(self, foretold: Figures) -> tuple[float, float]:
        """Fan-out, relative, and balance, by which figures foretold are off."""
        return abs(foretold.fan_out / self.after.fan_out - 1), abs(foretold.shard_balance - self.after.balance)

    @property
    def gained(self) -> bool:
        """By the rule that a move is verified by, without tolerance."""
        return verify(self.before, self.after, least_tokens=1).score > 0


def rows(sizes: Sizes) -> list[Row]:
    """For each model a trace of its kind."""
    be_patient()
    found: list[Row] = []
    decisions: list[Decision] = []
    for model in sizes.models:
        name, shards, slots = RECORDED[model]
        measured = _measure(read_trace(TRACES / name), shards, slots, sizes)
        found += _rows(f"{name}, {shards} shards", measured)
        decisions += [each.case.decision for each in measured]
    return [*found, *counted(FIGURE, decisions, sizes)]


def _measure(trace: Trace, shards: int, slots: int, sizes: Sizes) -> list[Measured]:
    measured: list[Measured] = []
    layers, top_k = trace.ids.shape[1:]
    topology = one_host(shards, slots)
    wanted = {True: sizes.plans, False: sizes.plans}
    with stand_in(trace.experts, layers, top_k) as (path, width), replay(path, shards, slots, width) as through:
        for case in cases(trace, topology, sizes.plan_seeds):
            if case.moves and wanted[case.decision.accepted]:
                wanted[case.decision.accepted] -= 1
                measured.append(_carry_out(case, through))
                print(f"{case.name}: {case.decision.reasons[0]}", flush=True)
            if not any(wanted.values()):
                break
    return measured


def _carry_out(case: Case, through: Replay) -> Measured:
    before, after = (through.measure(each, case.unseen) for each in (case.current, case.plan.placement))
    return Measured(case, before, after)


def _rows(name: str, measured: Sequence[Measured]) -> list[Row]:
    accepted = [each for each in measured if each.case.decision.accepted]
    refused = [each for each in measured if not each.case.decision.accepted]
    same = np.array([each.off(each.case.of_the_unseen) for each in accepted]).reshape(-1, 2)
    unseen = np.array([each.off(each.case.foretold) for each in accepted]).reshape(-1, 2)
    found = [Row(FIGURE, f"{name}: plans accepted, and carried out", len(accepted), 1, at_most=False)]
    if accepted:
        found += [
            Row(FIGURE, f"{name}: fan-out off by for that traffic, the worst", float(same[:, 0].max()), FAN_OUT),
            Row(FIGURE, f"{name}: balance off by for that traffic, the worst", float(same[:, 1].max()), BALANCE),
            Row(FIGURE, f"{name}: fan-out off by where foretold by others, median", float(np.median(unseen[:, 0]))),
            Row(FIGURE, f"{name}: fan-out off by where foretold by others, the worst", float(unseen[:, 0].max())),
            Row(FIGURE, f"{name}: balance off by where foretold by others, median", float(np.median(unseen[:, 1]))),
            Row(FIGURE, f"{name}: balance off by where foretold by others, the worst", float(unseen[:, 1].max())),
            Row(
                FIGURE, f"{name}: gained on unseen prompts, part", _part(each.gained for each in accepted), SIGNS, False
            ),
        ]
    found.append(Row(FIGURE, f"{name}: plans refused, and carried out all the same", len(refused)))
    if refused:
        paid = _part(each.case.would_pay for each in refused)
        found.append(Row(FIGURE, f"{name}: of which would have paid, on unseen prompts", paid, REGRETTED))
    return found


def _part(each: Iterable[bool]) -> float:
    return float(np.mean(list(each)))
