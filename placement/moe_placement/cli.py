"""``moe-placement``: plan, simulate and compare on files, and draw pictures. The only part of the package with I/O.

Files: traces and placements. A trace is what ``traces.trace`` describes; a placement is one line of text as
``wire.codec`` writes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from moe_placement.baselines import POLICIES
from moe_placement.engines import write_sglang_location
from moe_placement.errors import InvalidPlacementError, InvalidTopologyError, PlacementError
from moe_placement.explain import explain
from moe_placement.heatmap import draw
from moe_placement.migration import plan_migration
from moe_placement.placement import Placement
from moe_placement.simulate import Figures, simulate
from moe_placement.solve import Limits, solve
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Costs, Topology, h100_nodes, one_host
from moe_placement.traces import Trace, read_trace, split_by_prompt
from moe_placement.wire.codec import decode_placement, encode_placement


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one line on stderr that says what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (PlacementError, OSError) as error:
        print(f"moe-placement: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moe-placement", description="Place the experts of Mixture-of-Experts models."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    plan = _command(commands, "plan", "make a placement from a trace, or improve one", _plan)
    plan.add_argument("--current", type=Path, help="placement in force; the plan improves it")
    plan.add_argument("--max-moves", type=int, help="copies that may be made from --current")
    plan.add_argument("--min-copies", type=int, default=1, help="copies of every expert (default 1)")
    plan.add_argument("--out", type=Path, help="write the placement here")
    plan.add_argument("--sglang", type=Path, help="also write SGLang's --init-expert-location file (.json)")
    plan.add_argument("--picture", type=Path, help="draw layer 0 (.png or .svg; needs the extra plots)")
    judge = _command(commands, "simulate", "figures of a placement on a trace", _simulate)
    judge.add_argument("placement", type=Path)
    _command(commands, "compare", "ours and the baselines, on the half of the prompts not seen in planning", _compare)
    return parser


def _command(commands: argparse._SubParsersAction, name: str, text: str, run: object) -> argparse.ArgumentParser:  # type: ignore[type-arg]  # generic only in stubs
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    command.add_argument("trace", type=Path, help="recorded expert sets (.npz)")
    command.add_argument("--nodes", type=int, default=1, help="nodes with fast links inside (default 1)")
    command.add_argument("--shards", type=int, required=True, help="shards (GPUs or processes) per node")
    command.add_argument("--slots", type=int, required=True, help="expert slots per shard and layer")
    _topology_options(command.add_argument_group("topology", "A preset, and what is different here."))
    return command


def _topology_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--preset", choices=("h100", "sockets"), default="h100",
        help="h100: NVLink inside nodes, 400 Gb/s per GPU between them (default); "
        "sockets: processes of one machine, attention in one of its own",
    )  # fmt: skip
    group.add_argument("--spare-slots", type=int, help="buffers per shard for moves")
    for item in fields(Costs):
        name = "--" + item.name.replace("_", "-")
        if item.type == "bool":
            group.add_argument(name, action=argparse.BooleanOptionalAction, help="see moe_placement.topology.Costs")
        else:
            group.add_argument(name, type=float, metavar="X", help="in the unit of moe_placement.topology.Costs")


def _topology(options: argparse.Namespace) -> Topology:
    if min(options.nodes, options.shards) < 1:
        raise InvalidTopologyError(f"--nodes {options.nodes} and --shards {options.shards} must be 1 or more")
    if options.preset == "sockets" and options.nodes != 1:
        raise InvalidTopologyError(f"--preset sockets is one machine, --nodes is {options.nodes}")
    if options.preset == "sockets":
        topology = one_host(options.shards, options.slots)
    else:
        topology = h100_nodes(options.nodes, options.shards, options.slots)
    given = {item.name: getattr(options, item.name) for item in fields(Costs)}
    costs = replace(topology.costs, **{name: value for name, value in given.items() if value is not None})
    spare = topology.spare_slots if options.spare_slots is None else options.spare_slots
    return replace(topology, costs=costs, spare_slots=spare)


def _plan(options: argparse.Namespace) -> None:
    if options.max_moves is not None and options.current is None:
        raise PlacementError("--max-moves limits the way from a placement in force: name it with --current")
    trace, topology = read_trace(options.trace), _topology(options)
    statistics = _statistics(trace)
    current = None if options.current is None else _read_placement(options.current)
    limits = Limits(min_copies=options.min_copies, max_moved_slots=options.max_moves)
    plan = solve(statistics, topology, current, limits)
    migration = None if current is None else plan_migration(current, plan.placement, topology)
    explanation = explain(plan, statistics, migration)
    print(explanation.text)
    for move in explanation.moves:
        print(
            f"  layer {move.layer}: expert {move.expert} to shard {move.shard} ({move.load:.1%} of load): {move.reason}"
        )
    if options.out:
        options.out.write_text(encode_placement(plan.placement) + "\n")
    if options.sglang:
        write_sglang_location(options.sglang, plan.placement)
    if options.picture:
        draw(options.picture, statistics, plan.placement, layer=0)


def _simulate(options: argparse.Namespace) -> None:
    trace = read_trace(options.trace)
    _print_table(
        [(options.placement.name, simulate(trace.ids, _read_placement(options.placement), _topology(options)))]
    )


def _compare(options: argparse.Namespace) -> None:
    topology = _topology(options)
    seen, unseen = split_by_prompt(read_trace(options.trace))
    _print_table(compare(seen, unseen, topology))


def compare(seen: Trace, unseen: Trace, topology: Topology) -> list[tuple[str, Figures]]:
    """Figures on ``unseen`` of placements made from ``seen``; policies that do not fit the topology are left out."""
    statistics = _statistics(seen)
    rows = []
    for name, policy in POLICIES.items():
        try:
            rows.append((name, simulate(unseen.ids, policy(statistics.load, topology), topology)))
        except PlacementError as error:
            print(f"{name}: {error}", file=sys.stderr)
    rows.append(("moe-placement", simulate(unseen.ids, solve(statistics, topology).placement, topology)))
    return rows


def _statistics(trace: Trace) -> RoutingStatistics:
    return RoutingStatistics.of_ids(trace.ids, trace.experts, gates=trace.gates)


def _read_placement(path: Path) -> Placement:
    try:
        return decode_placement(path.read_text(encoding="utf-8").strip())
    except (UnicodeDecodeError, InvalidPlacementError) as error:
        raise InvalidPlacementError(f"{path}: {error}") from error


def _print_table(rows: Sequence[tuple[str, Figures]]) -> None:
    print(f"{'':<18}{'fan-out':>9}{'copies':>9}{'shards':>9}{'nodes':>9}{'active':>9}{'us/layer':>10}")
    for name, f in rows:
        print(
            f"{name:<18}{f.fan_out:>9.3f}{f.copies:>9.3f}{f.shard_balance:>9.3f}{f.node_balance:>9.3f}"
            f"{f.activated_balance:>9.3f}{f.seconds * 1e6:>10.1f}"
        )
