"""Figure 7: nothing moves for noise, a shift is followed at once, and on drift the moves pay."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.report import Row
from moe_placement import Placement
from moe_placement.baselines import eplb_global
from moe_placement.decision import Decision, Policy, decide
from moe_placement.expected import figures_on
from moe_placement.migration import plan_migration
from moe_placement.solver import Limits, solve
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology, h100_nodes
from moe_placement.traces import Traffic, generate_trace

POLICY = Policy()
LIMITS = Limits(max_moved_slots=72, workers=1)
"""One set of thresholds and limits for all three parts."""


@dataclass
class Rebalancer:
    """The loop that a controller runs: plan on the newest window, judge on the one before it."""

    topology: Topology
    placement: Placement
    history: list[Decision] = field(default_factory=list)
    last: RoutingStatistics | None = None

    def window(self, statistics: RoutingStatistics) -> float:
        """See a window; returns the price in seconds of what was moved, 0 if nothing was."""
        price = 0.0
        if self.last is not None:
            plan = solve(statistics, self.topology, self.placement, LIMITS)
            migration = plan_migration(self.placement, plan.placement, self.topology)
            decision = decide(plan, migration, [self.last], p.REPLAY_STEPS_PER_WINDOW, self.history, POLICY)
            self.history.append(decision)
            if decision.accepted:
                self.placement, price = plan.placement, decision.price
        self.last = statistics
        return price


def _window(rate: np.ndarray, random: np.random.Generator, tokens: int) -> RoutingStatistics:
    counts = np.stack([random.multinomial(tokens * p.NOISE_TOP_K, layer) for layer in rate])
    return RoutingStatistics.of_loads(counts, p.NOISE_TOP_K)


def _base(random: np.random.Generator) -> np.ndarray:
    rate = np.exp(0.5 * random.normal(size=(p.NOISE_LAYERS, p.NOISE_EXPERTS)))
    return rate / rate.sum(axis=1, keepdims=True)


def _started(rate: np.ndarray, random: np.random.Generator) -> Rebalancer:
    topology = h100_nodes(*p.RECORDED_CLUSTER)
    first = _window(rate, random, p.NOISE_TOKENS)
    return Rebalancer(topology, solve(first, topology, limits=Limits(workers=1)).placement, last=first)


def noise(part: tuple[int, int]) -> int:
    """Accepted plans in some windows of unchanging routing."""
    seed, windows = part
    random = np.random.default_rng([seed, 77])
    rate = _base(random)
    loop = _started(rate, random)
    for _ in range(windows):
        loop.window(_window(rate, random, p.NOISE_TOKENS))
    return sum(decision.accepted for decision in loop.history)


def shift(seed: int) -> int:
    """Windows from a shift of 20% of the load to the first accepted plan (99 if none is within 10)."""
    random = np.random.default_rng([seed, 78])
    rate = _base(random)
    loop = _started(rate, random)
    for _ in range(5):
        loop.window(_window(rate, random, p.NOISE_TOKENS))
    moved = rate.copy()
    for layer in moved:
        # A fifth of each layer's load goes from some experts to as many others.
        order = random.permutation(p.NOISE_EXPERTS)
        givers, takers = np.array_split(order, 2)
        taken = layer[givers] * (p.SHIFT_FRACTION / layer[givers].sum())
        layer[givers] -= taken
        layer[takers[: len(takers) // 4]] += p.SHIFT_FRACTION / (len(takers) // 4)
    for number in range(1, 11):
        if loop.window(_window(moved, random, p.NOISE_TOKENS)):
            return number
    return 99


def replay(seed: int) -> float:
    """Total modelled time on drifting traffic, moves included, relative to EPLB at its best fixed interval."""
    traffic = Traffic(
        tokens=p.REPLAY_TOKENS * p.REPLAY_WINDOWS, layers=p.NOISE_LAYERS, experts=p.NOISE_EXPERTS,
        top_k=p.NOISE_TOP_K, zipf=p.REPLAY_SIGMA, drift=p.REPLAY_RHO, epochs=p.REPLAY_WINDOWS,
    )  # fmt: skip
    ids = np.split(generate_trace(traffic, seed).ids, p.REPLAY_WINDOWS)
    windows = [RoutingStatistics.of_ids(part, p.NOISE_EXPERTS, windows=1) for part in ids]
    topology = h100_nodes(*p.RECORDED_CLUSTER)
    loop = Rebalancer(topology, solve(windows[0], topology, limits=Limits(workers=1)).placement, last=windows[0])
    ours = 0.0
    for window in windows[1:]:
        ours += _serve(window, loop.placement, topology) + loop.window(window)
    return ours / min(_eplb(windows, interval, topology) for interval in p.REPLAY_INTERVALS)


def _eplb(windows: list[RoutingStatistics], interval: int, topology: Topology) -> float:
    """EPLB-global every so many windows, blindly; its moves cost the same per byte and stall as ours."""
    placement = eplb_global(windows[0].load, topology)
    total = 0.0
    for number, window in enumerate(windows[1:], start=1):
        total += _serve(window, placement, topology)
        if number % interval == 0:
            new = eplb_global(window.load, topology)
            total += plan_migration(placement, new, topology).seconds + POLICY.stall
            placement = new
    return total


def _serve(window: RoutingStatistics, placement: Placement, topology: Topology) -> float:
    seconds = figures_on(window, placement, topology).seconds
    return seconds * p.NOISE_LAYERS * p.REPLAY_STEPS_PER_WINDOW


def rows(processes: int = 2) -> list[Row]:
    """All three with the same thresholds."""
    chunk = 250
    parts = [(seed, chunk) for seed in range(p.NOISE_WINDOWS // chunk)]
    with ProcessPoolExecutor(processes) as pool:
        accepted = sum(pool.map(noise, parts))
        followed = list(pool.map(shift, range(20)))
        drifted = list(pool.map(replay, p.SEEDS))
    return [
        Row(7, f"plans accepted in {p.NOISE_WINDOWS} windows of noise", accepted, 0),
        Row(7, "windows from a 20% shift to an accepted plan, worst of 20", max(followed), p.SHIFT_WINDOWS),
        Row(7, "replayed drift: modelled time with moves against EPLB's best interval", float(np.median(drifted)) - 1,
            -0.10),
    ]  # fmt: skip
