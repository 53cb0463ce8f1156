"""Print the figures of the placement brain with the aim beside each; exit 1 if any is below its aim.

python -m benchmarks.placement                 all: hours, of which 3, 10 and 12 take most
python -m benchmarks.placement --figures 2 5   only these
python -m benchmarks.placement --eplb PATH     also compare with the original EPLB from a checkout at PATH
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.brain import (
    figure_brute,
    figure_decision,
    figure_fan_out,
    figure_loads,
    figure_migration,
    figure_optima,
    figure_shift,
    figure_speed,
    figure_worst,
    original_eplb,
)
from benchmarks.brain.report import Row, conclude, measured, print_rows
from moe_placement.cli.outputs import check_outputs
from moe_placement.errors import PlacementError

FIGURES: tuple[tuple[tuple[int, ...], Callable[[], list[Row]]], ...] = (
    ((1, 9), figure_speed.rows),
    ((2,), figure_loads.balance_rows),
    ((3,), figure_fan_out.held_out_rows),
    ((4,), figure_optima.rows),
    ((5,), figure_loads.drift_rows),
    ((6,), figure_migration.rows),
    ((7,), figure_decision.rows),
    ((8,), figure_shift.rows),
    ((10,), figure_worst.rows),
    ((11,), figure_brute.rows),
    ((12,), figure_fan_out.left_out_rows),
)
KNOWN = sorted(number for numbers, _ in FIGURES for number in numbers)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=int, nargs="+", metavar="N", help=f"numbers of {KNOWN}; default all")
    parser.add_argument("--eplb", type=Path, help="checkout of deepseek-ai/EPLB (needs torch)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args(arguments)
    wanted = set(options.figures or KNOWN)
    if unknown := sorted(wanted - set(KNOWN)):
        parser.error(f"--figures: there are no {unknown}, only {KNOWN}")
    try:
        check_outputs({"--json": options.json}, {})
        original = None if options.eplb is None else original_eplb.load_module(options.eplb)
    except (PlacementError, OSError) as error:
        parser.error(str(error))
    rows: list[Row] = []
    for numbers, measure in FIGURES:
        if wanted.isdisjoint(numbers):
            continue
        rows += measured(measure)
    if original is not None:
        found = original_eplb.rows(original)
        print_rows(found)
        rows += found
    return conclude(rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
