"""Flags, and what is made of them: a topology and the solver's limits.

Every field of ``Costs`` and ``Limits`` has a flag of its own.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

from moe_placement.checks import whole
from moe_placement.cli.convert import add_convert
from moe_placement.cli.layers import add_layers
from moe_placement.errors import InvalidTopologyError, MismatchError, PlacementError
from moe_placement.placement import Placement
from moe_placement.ranges import from_ranges
from moe_placement.solver import Limits
from moe_placement.topology import Costs, Topology, h100_nodes, one_host

LIMITS = {
    "min_copies": "copies of every expert",
    "max_moved_slots": "copies that may be made from --current, over all layers",
    "max_moved_bytes": "the same in bytes of weights",
    "time_limit": "seconds after which no further search begins",
    "risk": "standard deviations that the load of a node is assumed to surge by",
    "shard_risk": "the same of a shard inside its node",
    "node_locality": "keep an expert on one node, but for --min-copies and for more load than a node's part",
    "first_layer": "layer that is searched first; the last ones are left out where time ends",
    "samples": "sampled expert sets per layer to look at",
    "workers": "threads",
    "seed": "of the search; equal ones give equal plans",
}
"""What the flag of each field of ``Limits`` does."""

DERIVED = {"risk": "what the slowest of all shards is expected to", "shard_risk": "what the slowest of a node is"}
"""What None stands for, where it is not that there is no limit."""

OF_THE_WAY = ("max_moved_slots", "max_moved_bytes", "spare_slots")
"""What is about getting there from a placement in force, and nothing without one."""


def flag(field: str) -> str:
    """The flag of a field of ``Costs``, ``Limits`` or ``Topology``."""
    return "--max-moves" if field == "max_moved_slots" else "--" + field.replace("_", "-")


def parser() -> argparse.ArgumentParser:
    """``command`` in the result is the command's name; fields of ``Costs`` and ``Limits`` keep their names."""
    top = argparse.ArgumentParser(prog="moe-placement", description="Place the experts of Mixture-of-Experts models.")
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    plan = _command(commands, "plan", "make a placement from a trace, or improve one")
    _add_shards(plan)
    spare = f"buffers per shard for the way from --current (default {Topology.spare_slots})"
    _add_topology(plan).add_argument("--spare-slots", type=int, metavar="N", help=spare)
    _add_limits(plan, list(LIMITS))
    plan.add_argument("--current", type=Path, help="placement in force; the plan improves it")
    plan.add_argument("--out", type=Path, help="write the placement here")
    plan.add_argument(
        "--sglang", type=Path, help="also write SGLang's --init-expert-location file (.json); see convert map for vLLM"
    )
    add_layers(plan, "What --sglang needs: row n of SGLang's file is the model's layer n, dense ones included.")
    plan.add_argument("--picture", type=Path, help="draw it (.png or .svg; needs the extra plots)")
    plan.add_argument(
        "--picture-layers", metavar="LAYERS", help="whose co-activation to draw, such as 0,5-7, or all (default 0)"
    )
    judge = _command(commands, "simulate", "figures of a placement on a trace")
    judge.add_argument("placement", type=Path, help="what plan --out wrote")
    _add_shards(judge, of="the placement's")
    _add_topology(judge)
    text = "ours and the baselines, planned on one half of the prompts and judged on the other"
    contest = _command(commands, "compare", text)
    _add_shards(contest)
    _add_topology(contest)
    _add_limits(contest, [name for name in LIMITS if name not in OF_THE_WAY])
    add_convert(commands)
    return top


def _command(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]  # generic only in stubs
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    loads = "; or loads that convert statistics made" if name == "plan" else ""
    command.add_argument(
        "trace", type=Path, help=f"recorded expert sets (.npz, or a folder of such; convert trace makes them){loads}"
    )
    return command


def _add_shards(command: argparse.ArgumentParser, of: str | None = None) -> None:
    """How many there are; ``of`` says where numbers that are left out come from."""
    default = f" (default: {of})" if of else ""
    command.add_argument("--nodes", type=int, default=1, help="nodes with fast links inside (default 1)")
    command.add_argument("--shards", type=int, required=not of, help=f"shards (GPUs or processes) per node{default}")
    command.add_argument("--slots", type=int, required=not of, help=f"expert slots per shard and layer{default}")


def _add_topology(command: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = command.add_argument_group("topology", "A preset, and what is different here.")
    group.add_argument(
        "--preset", choices=("h100", "sockets"), default="h100",
        help="h100: NVLink inside nodes, 400 Gb/s per GPU between them (default); "
        "sockets: processes of one machine, attention in one of its own",
    )  # fmt: skip
    group.add_argument(
        "--dead", metavar="SHARDS",
        help="shards that hold nothing any more, such as 3,8-15: what a placement has there is lost, and nothing is "
        "placed there",
    )  # fmt: skip
    for item in fields(Costs):
        if item.type == "bool":
            text = "see moe_placement.topology.Costs"
            group.add_argument(flag(item.name), action=argparse.BooleanOptionalAction, help=text)
        else:
            text = "in the unit of moe_placement.topology.Costs"
            group.add_argument(flag(item.name), type=float, metavar="X", help=text)
    return group


def _add_limits(command: argparse.ArgumentParser, names: list[str]) -> None:
    group = command.add_argument_group("limits", "What the plan must respect, and how hard to look for it.")
    for item in fields(Limits):
        if item.name in names:
            unset = DERIVED.get(item.name, "no limit")
            shown = unset if item.default is None else "no" if item.default is False else item.default
            group.add_argument(
                flag(item.name), dest=item.name, default=item.default, help=f"{LIMITS[item.name]} (default {shown})",
                **_kind(item),
            )  # fmt: skip


def _kind(item: Field[Any]) -> dict[str, Any]:
    if item.type == "bool":
        return {"action": "store_true"}
    return {"type": int if str(item.type).startswith("int") else float, "metavar": "N" if "int" in item.type else "X"}


def limits(options: argparse.Namespace) -> Limits:
    """Those that the command has flags for."""
    given = {name: getattr(options, name) for name in LIMITS if hasattr(options, name)}
    with named_by_flag():
        return Limits(**given)


def sizes(options: argparse.Namespace) -> tuple[int, int, int]:
    """Nodes, shards per node and slots per shard, each 1 or more."""
    nodes, shards, slots = (
        whole(InvalidTopologyError, flag(name), getattr(options, name), least=1)
        for name in ("nodes", "shards", "slots")
    )
    return nodes, shards, slots


def topology(options: argparse.Namespace) -> Topology:
    """``--nodes`` times ``--shards`` shards of ``--slots`` slots, with a preset's costs but for those given."""
    nodes, shards, slots = sizes(options)
    if options.preset == "sockets" and nodes != 1:
        raise InvalidTopologyError(f"--preset sockets is one machine, --nodes is {nodes}: leave out one of them")
    preset = one_host(shards, slots) if options.preset == "sockets" else h100_nodes(nodes, shards, slots)
    given = {item.name: getattr(options, item.name) for item in fields(Costs)}
    dead: tuple[int, ...] = ()
    if options.dead is not None:
        dead = from_ranges(InvalidTopologyError, "--dead", options.dead, most=nodes * shards - 1)
    with named_by_flag():
        costs = replace(preset.costs, **{name: value for name, value in given.items() if value is not None})
        spare = getattr(options, "spare_slots", None)
        return replace(preset, costs=costs, spare_slots=preset.spare_slots if spare is None else spare, dead=dead)


def topology_of(options: argparse.Namespace, placement: Placement) -> Topology:
    """The topology that a placement is made for.

    Raises:
        MismatchError: ``--nodes``, ``--shards`` or ``--slots`` say something else than the placement.
    """
    path, nodes = options.placement, whole(InvalidTopologyError, "--nodes", options.nodes, least=1)
    shards = placement.shards // nodes if options.shards is None else options.shards
    if nodes * shards != placement.shards:
        raise MismatchError(
            f"{path} has {placement.shards} shards, --nodes {nodes} of {shards} shards each are {nodes * shards}: "
            "give the nodes it was made for, and leave out --shards"
        )
    widths = set(placement.shard_slots)
    if options.slots is not None and widths != {options.slots}:
        raise MismatchError(
            f"{path} has {' or '.join(map(str, sorted(widths)))} slots per shard, --slots is {options.slots}: leave it "
            "out"
        )
    sized = argparse.Namespace(**{**vars(options), "shards": shards, "slots": max(widths)})
    return topology(sized).with_slots(placement.shard_slots)


def check_way(options: argparse.Namespace) -> None:
    """Refuse what is about the way from a placement in force where none is given."""
    for name in OF_THE_WAY:
        if options.current is None and getattr(options, name) is not None:
            raise PlacementError(
                f"{flag(name)} {getattr(options, name)} is about the way from a placement in force: name it with "
                "--current, or leave the flag out"
            )


@contextmanager
def named_by_flag() -> Iterator[None]:
    """Let errors name flags, where the package names fields of ``Costs``, ``Limits`` and ``Topology``."""
    try:
        yield
    except PlacementError as error:
        raise type(error)(_FIELD.sub(lambda found: flag(found[0]), str(error))) from error


_NAMES = [*LIMITS, *(item.name for item in fields(Costs)), "spare_slots"]
_FIELD = re.compile(rf"\b(?:{'|'.join(name if '_' in name else rf'{name}(?= is )' for name in _NAMES)})\b")
"""Names of one word are also words of the language: they are fields only where a message says what they are."""
