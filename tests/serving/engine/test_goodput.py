"""What queue and batch are bounded for: beyond what can be served, what is served is served well. In simulated time:
the real queue and scheduler on machines of which it is known how long a step takes.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from benchmarks.serving.client import Outcome, Verdict
from benchmarks.serving.figures import Figures, figures
from benchmarks.serving.traffic import Mix, Phase

from moe_contract.applications import AttentionConfig
from moe_serving.engine.queue import FairQueue
from moe_serving.engine.request import GenerationRequest, Sampling
from moe_serving.engine.scheduler import Chunk, Scheduler, take_tokens
from moe_serving.engine.sequence import Sequence as Running


@dataclass(frozen=True)
class Machine:
    """Seconds of a step: always, per answer that decodes in it, per token of a prompt. And its torch device type, and
    how many seconds to look at it."""

    device: str
    seconds: float
    fixed: float
    each: float
    prompt: float

    def step_s(self, chunks: Sequence[Chunk]) -> float:
        decoding = sum(chunk.count == 1 for chunk in chunks)
        prompts = sum(chunk.count for chunk in chunks) - decoding
        return self.fixed + self.each * decoding + self.prompt * prompts


CORES = Machine("cpu", 120, 0.022, 0.0021, 0.00027)
"""models/tiny, 2 shards and everything else on 2 cores: a step took 31 ms at 4 streams, 54 at 16, 81 at 32."""
GPU = Machine("cuda", 15, 0.025, 0.00002, 0.00001)


def serve(machine: Machine, limits: AttentionConfig, phases: Sequence[Phase]) -> list[Outcome]:
    """Poisson arrivals, and what became of each; seconds count from the first phase's begin."""
    queue, batch = FairQueue(limits), Scheduler(limits)
    outcomes = list(arrivals(phases))
    to_come, under_way, now = outcomes[::-1], dict[Running, Outcome](), 0.0
    while to_come or under_way:
        now = now if under_way else max(now, to_come[-1].begun)
        while to_come and to_come[-1].begun <= now:
            outcome = to_come.pop()
            sampling = Sampling(max_tokens=outcome.ask.max_tokens)
            sequence = Running(GenerationRequest(str(len(to_come)), outcome.ask.prompt, sampling))
            if queue.offer(sequence):
                under_way[sequence] = outcome
            else:
                outcome.verdict = Verdict.REFUSED
            queue.admit(batch)
        chunks = batch.next_step()
        now += machine.step_s(chunks)
        for sequence in take_tokens(chunks, [7] * sum(chunk.samples for chunk in chunks))[0]:
            tell(under_way[sequence], now)
            if sequence.finish_reason(frozenset()):
                under_way.pop(sequence).verdict = Verdict.COMPLETE
                queue.discard(sequence)
                batch.discard(sequence)
        queue.admit(batch)
    return outcomes


def arrivals(phases: Sequence[Phase]) -> Iterator[Outcome]:
    draw, asks, due, end = random.Random(7), Mix().endless(), 0.0, 0.0
    for phase in phases:
        due, end = end, end + phase.seconds
        while (due := due + draw.expovariate(phase.rate)) < end:
            yield Outcome(next(asks), due)


def tell(outcome: Outcome, now: float) -> None:
    """A token has come."""
    if outcome.first is None:
        outcome.first = now
    else:
        outcome.gaps.append(now - outcome.ended)
    outcome.ended = now


def at(machine: Machine, limits: AttentionConfig, rate: float, longest_gap_s: float = float("inf")) -> Figures:
    """What is seen at ``rate``, after ten seconds of it."""
    outcomes = serve(machine, limits, [Phase("warm-up", rate, 10), Phase("", rate, machine.seconds)])
    return figures("", 10, machine.seconds, outcomes, longest_gap_s=longest_gap_s)


def saturation(machine: Machine, limits: AttentionConfig) -> float:
    kept, lost = 1.0, 100.0
    while lost / kept > 1.05:
        rate = (kept * lost) ** 0.5
        if at(machine, limits, rate).completed_share >= 0.98:
            kept = rate
        else:
            lost = rate
    return kept


@pytest.mark.parametrize(
    "machine", [pytest.param(CORES, id="2 cores"), pytest.param(GPU, id="gpu", marks=pytest.mark.slow)]
)
def test_at_twice_the_load_that_can_be_served_nearly_as_much_good_is_done_as_ever(machine) -> None:
    limits = AttentionConfig().on(machine.device)
    most = saturation(machine, limits)
    half = at(machine, limits, most / 2)
    longest = 2 * half.gap.p50
    peak = max(at(machine, limits, share * most, longest).goodput for share in (0.7, 0.8, 0.9, 1.0))
    beyond = at(machine, limits, 2 * most, longest)
    print(f"saturation {most:.1f}/s, goodput {peak:.1f}/s at most, {beyond.goodput:.1f}/s at twice: {beyond}")
    assert beyond.refused and beyond.goodput >= 0.9 * peak
    overload = [Phase("", 2 * most, 60), Phase("", most / 2, 5), Phase("", most / 2, 30)]
    later = figures("", 65, 30, serve(machine, limits, overload))
    assert not later.refused and later.first.p95 <= 2 * half.first.p95


@pytest.mark.slow
def test_with_places_for_all_each_would_be_too_slow() -> None:
    """Why the batch is bounded by the device: the same machine, with 64 places."""
    limits = AttentionConfig(max_running=64)
    most = saturation(CORES, limits)
    longest = 2 * at(CORES, limits, most / 2).gap.p50
    assert at(CORES, limits, 2 * most, longest).goodput < 0.1 * at(CORES, limits, 0.8 * most, longest).goodput
