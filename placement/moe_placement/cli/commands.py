"""The commands: read, check everything that can be checked at once, then plan or replay, print and write."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe_placement.baselines import POLICIES
from moe_placement.cli.convert import convert
from moe_placement.cli.inputs import placement_of, trace_of, traffic_of
from moe_placement.cli.layers import ALL, NAMES, layer_flags, needed_layers
from moe_placement.cli.messages import warn
from moe_placement.cli.options import check_way, limits, named_by_flag, sizes, topology, topology_of
from moe_placement.cli.outputs import check_outputs, write_all
from moe_placement.cli.sizes import check_plan, check_replay
from moe_placement.encoding import encode_placement
from moe_placement.engines import ModelLayers, write_sglang_location
from moe_placement.errors import InvalidTraceError, MismatchError, PlacementError
from moe_placement.explanation import explain
from moe_placement.heatmap import check_size, draw
from moe_placement.migration import plan_migration
from moe_placement.placement import Placement
from moe_placement.ranges import as_ranges, from_ranges
from moe_placement.simulation import Figures, simulate
from moe_placement.solver import Limits, Plan, solve
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology
from moe_placement.traces import Trace, split_by_prompt


def _plan(options: argparse.Namespace) -> None:
    outputs = {"--out": options.out, "--sglang": options.sglang, "--picture": options.picture}
    check_way(options)
    check_outputs(outputs, {"the trace": options.trace})
    within, traffic = limits(options), traffic_of(options.trace)
    count, experts = (traffic.ids.shape[1], traffic.experts) if isinstance(traffic, Trace) else traffic.load.shape
    cluster = _planned_topology(options, count, experts)
    layers, drawn = _layers_of_map(options, count, cluster), _drawn_layers(options, count, experts, cluster)
    statistics = _statistics(traffic) if isinstance(traffic, Trace) else traffic
    _warn_of_quiet_layers(options.trace, np.asarray(statistics.load.any(axis=1)), statistics.tokens)
    current = None if options.current is None else placement_of(options.current)
    plan = _solve(statistics, cluster, current, within)
    with named_by_flag():
        migration = None if current is None else plan_migration(current, plan.placement, cluster)
    explanation = explain(plan, statistics, migration)
    print(explanation.text)
    for move in explanation.moves:
        print(
            f"  layer {move.layer}: expert {move.expert} to shard {move.shard} ({move.load:.1%} of load): {move.reason}"
        )
    writers: dict[str, Callable[[Path], object]] = {
        "--out": lambda path: path.write_text(encode_placement(plan.placement) + "\n"),
        "--picture": lambda path: draw(path, statistics, plan.placement, cluster, drawn),
    }
    if layers is not None:
        moe, total = layers.moe, layers.total
        writers["--sglang"] = lambda path: write_sglang_location(path, plan.placement, moe, total, statistics.load)
    write_all({path: writers[flag] for flag, path in outputs.items() if path is not None})


def _layers_of_map(options: argparse.Namespace, count: int, cluster: Topology) -> ModelLayers | None:
    """The rows of the map that ``--sglang`` writes for ``count`` layers; None without it."""
    if options.sglang is None:
        if given := [name for name, value in zip(NAMES, layer_flags(options), strict=True) if value is not None]:
            raise PlacementError(f"{given[0]} is about the rows of --sglang: name its file, or leave the flag out")
        return None
    if cluster.dead:
        raise PlacementError("--sglang needs equally many slots on every shard, and dead ones have none: leave one out")
    why = "row n of --sglang's file is the model's layer n, and a trace does not know which layers are dense"
    return needed_layers(options, count, why, str(options.trace))


def _drawn_layers(options: argparse.Namespace, count: int, experts: int, cluster: Topology) -> tuple[int, ...]:
    """Those whose co-activation ``--picture`` shows, of ``count`` with so many experts."""
    given = options.picture_layers
    if given is not None and options.picture is None:
        raise PlacementError("--picture-layers is of --picture: name its file, or leave the flag out")
    drawn = tuple(range(count)) if given == ALL else (0,)
    if given not in (None, ALL):
        drawn = from_ranges(PlacementError, "--picture-layers", given, count - 1)
    if options.picture is not None:
        check_size(len(drawn), int(np.minimum(cluster.slots, experts).sum()))
    return drawn


def _simulate(options: argparse.Namespace) -> None:
    trace, placement = trace_of(options.trace), placement_of(options.placement)
    if trace.experts != placement.experts:
        raise MismatchError(
            f"{options.trace} is of {trace.experts} experts, {options.placement} of {placement.experts}: give both of "
            "one model"
        )
    cluster = topology_of(options, placement)
    check_replay(trace, cluster.shards)
    _check_traffic(options.trace, trace)
    figures = simulate(trace.ids, placement, cluster)
    _print_dead(cluster, placement.held)
    _print_table([(options.placement.name, figures)])


def _compare(options: argparse.Namespace) -> None:
    within, trace = limits(options), trace_of(options.trace)
    cluster = _planned_topology(options, trace.ids.shape[1], trace.experts)
    check_replay(trace, cluster.shards)
    _check_traffic(options.trace, trace)
    seen, unseen = _halves(options.trace, trace)
    _print_dead(cluster)
    _print_table(compare(seen, unseen, cluster, within))


COMMANDS = {"plan": _plan, "simulate": _simulate, "compare": _compare, "convert": convert}


def compare(seen: Trace, unseen: Trace, cluster: Topology, within: Limits) -> list[tuple[str, Figures]]:
    """Figures on ``unseen`` of placements made from ``seen``; policies that do not fit the topology are left out."""
    statistics = _statistics(seen)
    ours = _solve(statistics, cluster, None, within).placement
    rows = []
    for name, policy in POLICIES.items():
        try:
            rows.append((name, simulate(unseen.ids, policy(statistics.load, cluster), cluster)))
        except PlacementError as error:
            warn(f"{name} is left out: {error}")
    return [*rows, ("moe-placement", simulate(unseen.ids, ours, cluster))]


def _planned_topology(options: argparse.Namespace, layers: int, experts: int) -> Topology:
    nodes, shards, slots = sizes(options)
    check_plan(layers, experts, nodes * shards, slots)
    return topology(options)


def _solve(statistics: RoutingStatistics, cluster: Topology, current: Placement | None, within: Limits) -> Plan:
    """A plan; what made it worse than it could be is told."""
    from moe_placement.compiled import COMPILED  # noqa: PLC0415 - Numba is loaded only to solve

    if not COMPILED:
        warn(
            "without Numba the search is about a hundred times slower and looks at fewer sampled sets: "
            "pip install numba"
        )
    with named_by_flag():
        plan = solve(statistics, cluster, current, within)
    if not plan.complete:
        warn(
            f"--time-limit {within.time_limit:g} s was over before layers {as_ranges(plan.left_out)} were searched to "
            "the end: give more seconds"
        )
    return plan


def _halves(path: Path, trace: Trace) -> tuple[Trace, Trace]:
    """To plan from and to judge on, without a prompt in common."""
    seen, unseen = split_by_prompt(trace)
    prompts, kinds = len(np.unique(trace.prompt)), len(np.unique(trace.domain))
    if not (_has_traffic(seen) and _has_traffic(unseen)):
        raise InvalidTraceError(
            f"{path} has {prompts} prompts of {kinds} kinds of text, and one half of them has no traffic: at least 2 "
            "prompts of one kind are needed, one to plan from and one to judge on"
        )
    return seen, unseen


def _has_traffic(trace: Trace) -> bool:
    return bool((trace.ids >= 0).any())


def _check_traffic(path: Path, trace: Trace) -> None:
    if not _has_traffic(trace):
        raise InvalidTraceError(
            f"{path} has no traffic ({len(trace)} tokens, none of which chose an expert): nothing can be judged on it"
        )
    _warn_of_quiet_layers(path, np.asarray((trace.ids >= 0).any(axis=(0, 2))), len(trace))


def _warn_of_quiet_layers(path: Path, busy: NDArray[np.bool_], tokens: float) -> None:
    if not busy.all():
        warn(
            f"{path} has no traffic in {int((~busy).sum())} of {len(busy)} layers ({tokens:.0f} tokens): nothing is "
            "known of their experts, all count as equally loaded, and figures of these layers mean nothing"
        )


def _statistics(trace: Trace) -> RoutingStatistics:
    return RoutingStatistics.of_ids(trace.ids, trace.experts, gates=trace.gates)


def _print_dead(cluster: Topology, held: NDArray[np.bool_] | None = None) -> None:
    """Which shards are dead, and what is lost with them of the copies ``held`` bool ``[layers, experts, shards]``."""
    if cluster.dead:
        lost = "nothing is placed there"
        if held is not None:
            lost = f"{int(held.sum() - cluster.readable(held).sum())} copies there are lost"
        print(f"dead: shards {as_ranges(cluster.dead)}; {lost}")


def _print_table(rows: Sequence[tuple[str, Figures]]) -> None:
    width = max(18, *(len(name) + 1 for name, _ in rows))
    print(f"{'':<{width}}{'fan-out':>9}{'node fan-out':>14}{'shards':>9}{'nodes':>9}{'active':>9}{'us/layer':>10}")
    for name, f in rows:
        print(
            f"{name:<{width}}{f.fan_out:>9.3f}{f.node_fan_out:>14.3f}{f.shard_balance:>9.3f}{f.node_balance:>9.3f}"
            f"{f.activated_balance:>9.3f}{f.seconds * 1e6:>10.1f}"
        )
