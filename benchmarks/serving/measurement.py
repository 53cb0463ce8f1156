"""Traffic run against one server, and the figures of all its phases."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from benchmarks.serving.client import Client, Outcome
from benchmarks.serving.figures import Figures, figures
from benchmarks.serving.judge import Judge
from benchmarks.serving.traffic import Mix, Phase, closed_loop, poisson


@dataclass(frozen=True, slots=True)
class _Run:
    """Phases one after the other from ``begin`` on, and all their outcomes."""

    phases: tuple[Phase, ...]
    begin: float
    outcomes: list[Outcome]
    client_cpu: float


class Measurement:
    """Attributes:
    longest_gap_s: see ``figures.figures``; to be set once the gaps of a server at ease are known.
    """

    def __init__(self, client: Client, mix: Mix, seed: int) -> None:
        self.longest_gap_s = math.inf
        self._client = client
        self._mix = mix
        self._seed = seed
        self._runs: list[_Run] = []

    async def closed(self, streams: int, warm_up_s: float, seconds: float) -> float:
        """A closed loop; returns the answers a second."""
        phases = [Phase("warm-up", 0.0, warm_up_s), Phase(f"{streams} streams", 0.0, seconds)]
        _, row = await self._run(phases, closed_loop(self._client, self._mix, streams, warm_up_s + seconds))
        return row.complete / row.seconds

    async def arrivals(self, phases: Sequence[Phase], drain_s: float = math.inf) -> list[Figures]:
        """Poisson arrivals, phase after phase; see ``traffic.poisson``."""
        self._seed += 1
        return await self._run(phases, poisson(self._client, self._mix.endless(), phases, self._seed, drain_s))

    async def share_completed(self, rate: float, warm_up_s: float, seconds: float) -> float:
        """See ``saturation.Measure``. What the search leaves behind in the server is cut off."""
        phases = [Phase("warm-up", rate, warm_up_s), Phase(f"search {rate:.2f}/s", rate, seconds)]
        _, row = await self.arrivals(phases, drain_s=0)
        print(f"  at {rate:.2f}/s: {row.completed_share:.1%} of {row.offered} completed", flush=True)
        return row.completed_share

    def rows(self, judge: Judge | None = None) -> list[Figures]:
        """Of all phases so far."""
        return [row for run in self._runs for row in self._figures(run, judge)]

    async def _run(self, phases: Sequence[Phase], traffic: Awaitable[list[Outcome]]) -> list[Figures]:
        begin, cpu = time.monotonic(), time.process_time()
        outcomes = await traffic
        used = (time.process_time() - cpu) / (time.monotonic() - begin)
        self._runs.append(_Run(tuple(phases), begin, outcomes, used))
        return self._figures(self._runs[-1], None)

    def _figures(self, run: _Run, judge: Judge | None) -> list[Figures]:
        rows, begin = [], run.begin
        for phase in run.phases:
            row = figures(
                phase.name,
                begin,
                phase.seconds,
                run.outcomes,
                longest_gap_s=self.longest_gap_s,
                is_wrong=judge.is_wrong if judge else None,
                client_cpu=run.client_cpu,
            )
            rows.append(row)
            begin += phase.seconds
        return rows
