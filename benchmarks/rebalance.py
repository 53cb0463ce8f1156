"""Print the figures of migrations and of placements that follow the traffic, with the aim beside each; exit 1 if any
is below its aim.

python -m benchmarks.rebalance                 all, at full size: hours
python -m benchmarks.rebalance --figures 1 3   only these
python -m benchmarks.rebalance --short         whether it all works: a few minutes, and no figure to rely on
python -m benchmarks.rebalance --figures 2 --migrations 20 --models tiny    fewer repetitions
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

from benchmarks.arguments import positive
from benchmarks.brain.report import Row, conclude, measured
from benchmarks.rebalancing.sizes import FULL, SHORT, Sizes
from moe_placement.cli.outputs import check_outputs
from moe_placement.errors import PlacementError

FIGURES = {
    1: "exactness", 2: "throughput", 3: "prediction", 4: "links", 5: "shift", 6: "operator", 7: "crashes",
}  # fmt: skip
"""Modules of ``benchmarks.rebalancing``; imported when they are asked for, since they import torch."""
REPETITIONS = {
    "migrations": "of figures 1 and 2, for each model",
    "plans": "of figure 3 at most, accepted ones and refused ones each",
    "rounds": "of figure 4",
    "shifts": "of figure 5",
    "quiet": "intervals of figure 5 without a change",
}
"""Fields of ``Sizes``."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    wanted = sorted(set(options.figures or FIGURES))
    if unknown := [number for number in wanted if number not in FIGURES]:
        parser.error(f"--figures: there are no {unknown}, only {sorted(FIGURES)}")
    try:
        check_outputs({"--json": options.json}, {})
    except (PlacementError, OSError) as error:
        parser.error(str(error))
    rows: list[Row] = []
    for number in wanted:
        module = import_module(f"benchmarks.rebalancing.figure_{FIGURES[number]}")
        rows += measured(partial(module.rows, _sizes(options)))
    return conclude(rows, options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(f"{number} {name}" for number, name in FIGURES.items())
    parser.add_argument("--figures", type=int, nargs="+", metavar="N", help=f"of {known}; default all")
    parser.add_argument("--short", action="store_true", help="as little as shows that it works")
    parser.add_argument("--models", nargs="+", choices=FULL.models, help="default both")
    for name, words in REPETITIONS.items():
        parser.add_argument(f"--{name}", type=positive, metavar="N", help=f"{words}; default {getattr(FULL, name)}")
    rates = " ".join(f"{rate:g}" for rate in FULL.rates)
    parser.add_argument(
        "--rates", type=_speed, nargs="+", metavar="GBPS", help=f"of links in figure 4, Gb/s; default {rates}"
    )
    rooms = " ".join(f"{room:g}" for room in FULL.rooms)
    parser.add_argument(
        "--rooms", type=_room, nargs="+", metavar="SLOTS", help=f"in figure 4, an expert; default {rooms}"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser


def _between(text: str, least: float, most: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
    return number


def _speed(text: str) -> float:
    return _between(text, 0.001, 100, "speed from 0.001 to 100 Gb/s")


def _room(text: str) -> float:
    return _between(text, 1, 4, "number of slots for each expert, from 1 to 4")


def _sizes(options: argparse.Namespace) -> Sizes:
    sizes = SHORT if options.short else FULL
    given = {name: getattr(options, name) for name in REPETITIONS}
    for name in ("models", "rates", "rooms"):
        values = getattr(options, name)
        given[name] = tuple(values) if values else None
    return replace(sizes, **{name: value for name, value in given.items() if value is not None})


if __name__ == "__main__":
    sys.exit(main())
