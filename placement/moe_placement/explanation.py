"""Why a plan is as it is: figures, one paragraph, the five largest moves with their reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.expected import check_same_model
from moe_placement.migration import Migration
from moe_placement.ranges import as_ranges
from moe_placement.solver.plan import Plan
from moe_placement.statistics import RoutingStatistics

_MOVES = 5


@dataclass(frozen=True, slots=True)
class Move:
    """One copy to be made, and why."""

    layer: int
    expert: int
    shard: int
    load: float
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """``text`` is one paragraph; ``moves`` the largest by load."""

    text: str
    moves: tuple[Move, ...]


def explain(plan: Plan, statistics: RoutingStatistics, migration: Migration | None = None) -> Explanation:
    """Put a plan into words.

    Raises:
        MismatchError: statistics of another model than the plan's.
    """
    check_same_model(statistics, plan.placement)
    after = plan.after
    after_all = f" {_surges(statistics)}{_left_out(plan)}"
    if plan.before is None:
        dead = f" ({as_ranges(plan.topology.dead)} dead)" if plan.topology.dead else ""
        text = (
            f"A first placement of {plan.placement.experts} experts x {plan.placement.layers} layers on "
            f"{plan.placement.shards} shards{dead}: {_figures(plan)}."
        )
        return Explanation(text + after_all, ())
    if plan.moved_slots == 0:
        why = "Nothing to move: no placement within the limits was found to be better"
        if plan.repairs:
            why = f"No copy has to be made: {plan.due}"
        if migration is not None and migration.losses.text:
            why += f"; {migration.losses.text}"
        return Explanation(f"{why}; {_figures(plan)}.{after_all}", ())
    before = plan.before
    parts = [
        f"Moving {plan.moved_slots} copies ({plan.moved_bytes / 1e9:.3g} GB) takes a modelled layer from "
        f"{before.seconds * 1e6:.1f} to {after.seconds * 1e6:.1f} us ({(after.seconds / before.seconds - 1):+.1%})"
    ]
    if plan.repairs:
        parts.append(f"{plan.due}; the figures before are of these alone")
    if before.fan_out:
        parts.append(f"a token visits {before.fan_out:.3f} -> {after.fan_out:.3f} shards")
        if plan.topology.nodes > 1:
            parts[-1] += f", {before.node_fan_out:.3f} -> {after.node_fan_out:.3f} remote nodes"
    parts.append(f"balance over shards {before.shard_balance:.3f} -> {after.shard_balance:.3f}")
    if plan.topology.nodes > 1:
        parts[-1] += f", over nodes {before.node_balance:.3f} -> {after.node_balance:.3f}"
    if migration is not None:
        parts.append(migration.text)
    return Explanation("; ".join(parts) + "." + after_all, _largest_moves(plan, statistics))


def _surges(statistics: RoutingStatistics) -> str:
    windows = statistics.windows_with_traffic
    if windows < 2:
        return f"Surges are not known and have no price: it takes two windows of traffic, there are {windows}."
    return f"Surges are priced, by the risk among the limits, as seen in {windows} windows of traffic."


def _left_out(plan: Plan) -> str:
    if plan.complete:
        return ""
    return (
        f" The time limit was reached first: the search of {len(plan.left_out)} of {plan.placement.layers} layers "
        f"({as_ranges(plan.left_out)}) was cut short or not begun, and a longer one may find better."
    )


def _figures(plan: Plan) -> str:
    after = plan.after
    text = f"a modelled layer of {after.seconds * 1e6:.1f} us, balance {after.shard_balance:.3f} over shards"
    if plan.topology.nodes > 1:
        text += f" and {after.node_balance:.3f} over nodes"
    if after.fan_out:
        text += f", {after.fan_out:.3f} shards"
        text += f" and {after.node_fan_out:.3f} remote nodes" if plan.topology.nodes > 1 else ""
        text += " visited per token and layer"
    return text


def _largest_moves(plan: Plan, statistics: RoutingStatistics) -> tuple[Move, ...]:
    part = statistics.load / np.maximum(statistics.load.sum(axis=1, keepdims=True), 1e-300)
    moved = np.argwhere(plan.moved)
    order = np.argsort(-part[moved[:, 0], moved[:, 1]], kind="stable")[:_MOVES]
    return tuple(
        Move(int(la), int(e), int(g), float(part[la, e]), _reason(plan, statistics, int(la), int(e), int(g)))
        for la, e, g in moved[order]
    )


def _reason(plan: Plan, statistics: RoutingStatistics, layer: int, expert: int, shard: int) -> str:
    """Another copy for a hot expert, a shard that must go, partners it joins, or load it takes from where it was."""
    held = plan.placement.held[layer]
    old = _before(plan, layer)
    lost = [shard for shard in plan.topology.dead if old[expert, shard]]
    if lost and not plan.topology.readable(old[:, : plan.topology.shards])[expert].any():
        return f"only dead shards held it ({as_ranges(lost)}): it is read from the checkpoint"
    if lost:
        return f"its copies on dead shards ({as_ranges(lost)}) are lost"
    partners = statistics.pairs[layer, expert].astype(np.float64)
    partners[expert] = 0.0
    total = max(float(partners.sum()), 1e-300)
    topology = plan.topology
    node = np.asarray(topology.node_of_shard)
    here = held[:, node == node[shard]].any(axis=1)
    joined = float(partners[here].sum()) / total
    if held[expert].sum() > old[expert].sum():
        return (
            f"a further copy shares its load among {int(held[expert].sum())} shards; {joined:.0%} of partners are near"
        )
    now = np.pad(held[expert], (0, old.shape[1] - held.shape[1]))
    left = int(np.flatnonzero(old[expert] & ~now)[-1])
    if left >= topology.shards or topology.shard_slots[left] == 0:
        return "the shard it leaves has no slots any more"
    came = held[:, left] & ~old[:, left]
    old = old[:, : topology.shards]
    there = old[:, node == node[left]].any(axis=1)
    were = float(partners[there].sum()) / total
    if joined > were + 0.01:
        return f"joins the experts it is chosen with: {joined:.0%} of partners are on the node, {were:.0%} were"
    # Copies of an expert share its load evenly here: enough to compare two shards.
    load = (statistics.load[layer] / np.maximum(old.sum(axis=1), 1)) @ old
    carried = load / np.maximum(topology.share * max(float(load.sum()), 1e-300), 1e-300)
    if carried[left] > carried[shard] + 0.01:
        return (
            f"evens out load: the shard it leaves carried {carried[left]:.2f} of its part, "
            f"the one it joins {carried[shard]:.2f}"
        )
    if came.any():
        other = int(np.argmax(np.where(came, statistics.load[layer], -1.0)))
        return f"makes room on shard {left} for expert {other}"
    return (
        f"part of a larger exchange: {joined:.0%} of partners are on the node, {were:.0%} were; the shard it leaves "
        f"carried {carried[left]:.2f} of its part, the one it joins {carried[shard]:.2f}"
    )


def _before(plan: Plan, layer: int) -> NDArray[np.bool_]:
    """bool ``[experts, shards]``: who held what, with as many shards as the larger of both placements."""
    held = plan.placement.held[layer]
    old = held if plan.current is None else plan.current.held[layer]
    return np.pad(old, ((0, 0), (0, max(0, held.shape[1] - old.shape[1]))))
