"""Figures 2 and 5: balance from loads alone, and how little has to move to keep it under drift."""

from __future__ import annotations

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.loads import even_split, levelled_balance, shaped
from benchmarks.brain.report import Row
from moe_placement.baselines import POLICIES
from moe_placement.solver import Limits, solve
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology, h100_nodes


def balance_rows() -> list[Row]:
    """Every copy gets the same part of its expert's load (EPLB's convention), all copies of an expert on one node.

    An expert too heavy for one node may be on as many as its load needs, so the linear bound is the mean.
    """
    topology = h100_nodes(p.NODES, p.GPUS_PER_NODE, p.SLOTS_PER_GPU)
    found = []
    for shape in p.LOAD_SHAPES:
        over, worst = [], []
        for seed in p.SEEDS:
            load = shaped(shape, p.LAYERS, p.EXPERTS, np.random.default_rng(seed))
            plan = solve(RoutingStatistics.of_loads(load, p.TOP_K), topology, limits=Limits(node_locality=True))
            fullest = even_split(load, plan.placement, topology).max(axis=1)
            over.append(float(fullest.mean()))
            worst.append(float((1 / fullest).min()))
        found += [
            Row(2, f"{shape}: fullest shard over max(mean, bound)", float(np.median(over)), 1.01),
            Row(2, f"{shape}: least balance of a layer", float(np.median(worst)), 0.95, at_most=False),
        ]
    return found


def drift_rows() -> list[Row]:
    """Least-loaded dispatch for all. Gain: fullest shard's load saved against leaving the placement as it was."""
    topology = h100_nodes(p.NODES, p.GPUS_PER_NODE, p.SLOTS_PER_GPU)
    slots = p.DRIFT_LAYERS * int(topology.slots.sum())
    found = []
    for rho in p.DRIFT_RHO:
        for policy in ("eplb-global", "eplb-hierarchical"):
            gains, moved = [], []
            for seed in p.SEEDS:
                gain, part = _drift(rho, policy, topology, np.random.default_rng(seed), slots)
                gains.append(gain)
                moved.append(part)
            found += [
                Row(5, f"drift {rho}, against {policy}: part of the gain of solving anew", float(np.median(gains)),
                    0.95, at_most=False),
                Row(5, f"drift {rho}, against {policy}: part of the slots moved per step", float(np.max(moved)), 0.06),
            ]  # fmt: skip
        bound = [
            _drift(rho, "eplb-hierarchical", topology, np.random.default_rng(seed), slots, local=True)[0]
            for seed in p.SEEDS
        ]
        # Hierarchical never has an expert on two nodes, ours may: this is the gain where it may not either.
        found.append(Row(5, f"drift {rho}, against eplb-hierarchical, node locality kept", float(np.median(bound))))
    return found


def _drift(
    rho: float, policy: str, topology: Topology, random: np.random.Generator, slots: int, local: bool = False
) -> tuple[float, float]:
    """(mean part of the gain, largest part of slots moved) over the steps of one run."""
    state = random.normal(size=(p.DRIFT_LAYERS, p.EXPERTS)) * p.DRIFT_SIGMA
    placement = POLICIES[policy](_loads(state), topology)
    gains, largest = [], 0.0
    for _ in range(p.DRIFT_STEPS):
        state = rho * state + np.sqrt(1 - rho**2) * p.DRIFT_SIGMA * random.normal(size=state.shape)
        load = _loads(state)
        limits = Limits(max_moved_slots=int(0.06 * slots), node_locality=local)
        plan = solve(RoutingStatistics.of_loads(load, p.TOP_K), topology, placement, limits)
        stale, anew, ours = (
            float((1 / levelled_balance(load, candidate, topology)).mean())
            for candidate in (placement, POLICIES[policy](load, topology), plan.placement)
        )
        gains.append((stale - ours) / (stale - anew) if stale > anew + 1e-9 else 1.0)
        largest = max(largest, plan.moved_slots / slots)
        placement = plan.placement
    return float(np.mean(gains)), largest


def _loads(state: np.ndarray) -> np.ndarray:
    load = np.exp(state)
    return load / load.sum(axis=1, keepdims=True)
