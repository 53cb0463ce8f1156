"""Print what choosing the copies of one layer costs, compiled and without Numba, in CPU time of one thread.

python -m benchmarks.dispatch [--json build/dispatch.json]

256 experts, top-8, two copies of each where nothing else is said: on one node of 8 shards, and on 4 nodes of 8, as
benchmarks of the literature have them. Every figure is a median over repeated calls that go on from the load of those
before. Exit 1 where the compiled form takes more than 25 us for the layer of a step of one row, or more than 0.1 us per
pair of a larger one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe_placement.dispatch import CopyChooser, copies_on

EXPERTS, TOP_K = 256, 8
CLUSTERS = {"1 node of 8": (1, 8), "4 nodes of 8": (4, 8)}
STEPS = {1: 1024, 64: 32, 512: 8}
"""Steps of so many rows, all different: a processor learns to foretell those that it sees again and again."""
REPEATS = 31
AIM_LAYER_US, AIM_PAIR_US = 25.0, 0.1
WITHOUT_NUMBA = "import sys; sys.modules['numba'] = None; from benchmarks.dispatch import main; main(['--measure'])"


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds per layer: the median of repeated calls, compiled and interpreted."""

    what: str
    rows: int
    compiled_us: float
    interpreted_us: float

    @property
    def pair_us(self) -> float:
        """Compiled, per pair of a token and an expert."""
        return self.compiled_us / (self.rows * TOP_K)

    @property
    def reached(self) -> bool:
        return self.compiled_us <= AIM_LAYER_US if self.rows == 1 else self.pair_us <= AIM_PAIR_US


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure()))
        return 0
    compiled, interpreted = measure(), _without_numba()
    rows = [Row(what, count, us, interpreted[i][2]) for i, (what, count, us) in enumerate(compiled)]
    print(f"{'us per layer, top-8':<28}{'rows':>6}{'compiled':>12}{'per pair':>12}{'interpreted':>14}{'ratio':>8}")
    for row in rows:
        ratio = row.interpreted_us / row.compiled_us
        print(
            f"{row.what:<28}{row.rows:>6}{row.compiled_us:>12.2f}{row.pair_us:>12.4f}{row.interpreted_us:>14.1f}"
            f"{ratio:>8.1f}{'' if row.reached else '  ABOVE ITS AIM'}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps([{**asdict(row), "pair_us": row.pair_us} for row in rows], indent=2) + "\n")
    return int(not all(row.reached for row in rows))


def measure() -> list[tuple[str, int, float]]:
    """What, rows and microseconds per layer, in the form that this process has."""
    found = []
    for name, (nodes, shards_per_node) in CLUSTERS.items():
        for copies in (1, 2):
            random = np.random.default_rng(1)
            chooser = _chooser(nodes, shards_per_node, copies, random)
            what = f"{name}, {copies} {'copy' if copies == 1 else 'copies'}"
            for rows, steps in STEPS.items():
                ids = [random.random((rows, EXPERTS)).argsort(axis=1)[:, :TOP_K].copy() for _ in range(steps)]
                found.append((what, rows, _microseconds(chooser, ids)))
    return found


def _chooser(nodes: int, shards_per_node: int, copies: int, random: np.random.Generator) -> CopyChooser:
    shards = nodes * shards_per_node
    held = np.zeros((EXPERTS, shards), dtype=bool)
    np.put_along_axis(held, random.random((EXPERTS, shards)).argsort(axis=1)[:, :copies], True, axis=1)
    return CopyChooser(copies_on(held, np.arange(shards) // shards_per_node))


def _microseconds(chooser: CopyChooser, steps: list[NDArray[np.int64]]) -> float:
    """Of one step: the median over repeats of all of them."""
    taken = []
    for _ in range(REPEATS):
        begin = time.thread_time()
        for ids in steps:
            chooser.choose(ids)
        taken.append((time.thread_time() - begin) * 1e6 / len(steps))
    return statistics.median(taken)


def _without_numba() -> list[tuple[str, int, float]]:
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, check=True)
    found: list[tuple[str, int, float]] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
