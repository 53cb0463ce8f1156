"""Figure 4: how far from proven optima on small instances. ``--prove`` finds them anew with SciPy's HiGHS.

An instance: weighted expert sets, nodes of one shard each with slots and a load cap; copies of an expert share its load
evenly. Minimised: the sum over tokens of (nodes visited - 1), with the best choice of copies for each token.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import lil_matrix

from benchmarks.brain import parameters as p
from benchmarks.brain.report import Row
from moe_placement.solver import cover
from moe_placement.solver.constants import CAP
from moe_placement.solver.layer import place_layer
from moe_placement.solver.problem import LayerProblem, Prices
from moe_placement.topology import Topology

STORED = Path(__file__).with_name("optima.json")


@dataclass(frozen=True, slots=True)
class Instance:
    """``sets`` int64 ``[n, k]`` (-1 for none), ``weight`` int64 ``[n]``; slots and load cap (relative) per node."""

    sets: NDArray[np.int64]
    weight: NDArray[np.int64]
    experts: int
    nodes: int
    slots: int
    slack: float

    @property
    def load(self) -> NDArray[np.float64]:
        """``[experts]``, summing to 1."""
        known = self.sets >= 0
        weight = np.broadcast_to(self.weight[:, None], self.sets.shape)
        load = np.bincount(self.sets[known], weights=weight[known], minlength=self.experts)
        return load / load.sum()


def instance(number: int) -> Instance:
    """Random communities with noise; every expert is in some set."""
    random = np.random.default_rng([p.OPTIMA_SEED, number])
    nodes = int(random.integers(2, 4))
    experts = int(random.integers(8, 17 if nodes == 2 else 11))  # three nodes and more experts: seldom proven in 60 s
    k, distinct = int(random.integers(2, 5)), int(random.integers(12, 61 if nodes == 2 else 31))
    community = random.integers(0, nodes + 1, size=experts)
    sets = np.full((distinct, k), -1, dtype=np.int64)
    for row in sets:
        topic = random.integers(0, nodes + 1)
        taste = np.where(community == topic, 3.0, 0.0) + random.gumbel(size=experts)
        row[:] = np.sort(np.argsort(-taste)[:k])
    sets = np.unique(sets, axis=0)
    weight = random.integers(1, 20, size=len(sets))
    missing = np.setdiff1d(np.arange(experts), sets)
    if len(missing):
        extra = np.full((len(missing), k), -1, dtype=np.int64)
        extra[:, 0] = missing
        sets, weight = np.vstack([sets, extra]), np.append(weight, np.ones(len(missing), dtype=np.int64))
    slots = -(-experts // nodes) + int(random.integers(0, 3))
    return Instance(sets, weight, experts, nodes, slots, float(random.choice([0.05, 0.1, 0.2])))


def cost(problem: Instance, held: NDArray[np.bool_]) -> float:
    """Sum of weight x (nodes visited - 1); infinite where slots or the cap are broken or an expert is missing."""
    copies = held.sum(axis=1)
    if (copies == 0).any() or (held.sum(axis=0) > problem.slots).any():
        return np.inf
    load = (problem.load / copies) @ held
    if (load * problem.nodes > 1 + problem.slack + 1e-9).any():
        return np.inf
    masks = (held << np.arange(problem.nodes)).sum(axis=1)
    hit = cover.hits(problem.nodes)
    family = np.bitwise_and.reduce(np.where(problem.sets >= 0, hit[masks[problem.sets]], -1), axis=1)
    visits = cover.visit_costs(np.ones(problem.nodes), 0.0)[family]
    return float((problem.weight * (visits - 1)).sum())


def prove(problem: Instance, seconds: float = 60.0) -> tuple[float | None, bool]:
    """(optimum or None where infeasible, proven) by integer programming.

    One binary per expert and set of nodes it is on (loads are linear in these), one variable per token set and set of
    nodes it visits. A token set visits only inside U if each of its experts is on some node of U, for every U.
    """
    subsets = range(1, 1 << problem.nodes)
    width = len(subsets)
    experts, count = problem.experts, len(problem.sets)
    size = (experts + count) * width
    rows: list[tuple[dict[int, float], float, float]] = []
    for block in range(experts + count):
        rows.append((dict.fromkeys(range(block * width, (block + 1) * width), 1.0), 1, 1))
    for n in range(problem.nodes):
        on_node = [subset for subset in subsets if subset >> n & 1]
        rows.append(({e * width + s - 1: 1.0 for e in range(experts) for s in on_node}, 0, problem.slots))
        load = {e * width + s - 1: problem.load[e] / s.bit_count() for e in range(experts) for s in on_node}
        rows.append((load, 0, (1 + problem.slack) / problem.nodes))
    # Nodes are alike: the heaviest expert is on the first one.
    heaviest = int(problem.load.argmax())
    rows.append(({heaviest * width + s - 1: 1.0 for s in subsets if s & 1}, 1, 1))
    for number, row in enumerate(problem.sets):
        begin = (experts + number) * width - 1
        for e in row[row >= 0]:
            for union in subsets:
                terms = {begin + s: 1.0 for s in subsets if s & ~union == 0}
                terms |= {int(e) * width + s - 1: -1.0 for s in subsets if s & union}
                rows.append((terms, -np.inf, 0))
    matrix = lil_matrix((len(rows), size))
    for number, (terms, _, _) in enumerate(rows):
        for column, value in terms.items():
            matrix[number, column] = value
    goal = np.zeros(size)
    for number, weight in enumerate(problem.weight):
        for s in subsets:
            goal[(experts + number) * width + s - 1] = weight * (s.bit_count() - 1)
    whole = np.zeros(size)
    whole[: experts * width] = 1
    lower, upper = np.array([r[1] for r in rows]), np.array([r[2] for r in rows])
    result = milp(
        goal, constraints=LinearConstraint(matrix.tocsr(), lower, upper), integrality=whole,
        bounds=(0, 1), options={"time_limit": seconds, "mip_rel_gap": 0},
    )  # fmt: skip
    if result.x is None:
        return None, result.status == 2
    return float(result.fun), result.status == 0


def solved(problem: Instance) -> float:
    """Cost of what the package finds, with the package's own settings but for the instance's load cap."""
    topology = Topology(tuple(range(problem.nodes)), (problem.slots,) * problem.nodes, resident_tokens=False)
    repeated = np.repeat(problem.sets, problem.weight, axis=0)
    pairs = np.zeros((problem.experts, problem.experts), dtype=np.float32)
    for row, weight in zip(problem.sets, problem.weight, strict=True):
        known = row[row >= 0]
        pairs[np.ix_(known, known)] += weight
    least = np.ones(problem.experts, dtype=np.int64)
    layer = LayerProblem(
        problem.load, repeated, pairs, least, np.zeros_like(least), False, 0, Prices(CAP, CAP), len(repeated),
        problem.slack,
    )  # fmt: skip
    return cost(problem, place_layer(layer, topology))


def rows() -> list[Row]:
    """Compare with the stored optima."""
    stored = json.loads(STORED.read_text())
    gaps, failed = [], 0
    for number, optimum in stored["optima"].items():
        found = solved(instance(int(number)))
        if not np.isfinite(found):
            failed += 1
        else:
            gaps.append((found - optimum) / optimum if optimum else float(found > 0))
    return [
        Row(4, "instances with a proven optimum", len(stored["optima"]), 100, at_most=False),
        Row(4, "instances not proven in 60 s (counted apart)", len(stored["unproven"])),
        Row(4, "instances where no placement within the caps was found", failed, 0),
        Row(4, "above the optimum, mean", 100 * float(np.mean(gaps)), 0.5, unit=" %"),
        Row(4, "above the optimum, worst", 100 * float(np.max(gaps)), 2.0, unit=" %"),
    ]


def main() -> None:
    """Prove all optima and store them; infeasible instances are left out."""
    optima: dict[str, float] = {}
    unproven: list[int] = []
    for number in range(p.OPTIMA_INSTANCES * 2):
        if len(optima) + len(unproven) >= p.OPTIMA_INSTANCES:
            break
        optimum, proven = prove(instance(number))
        if optimum is not None and proven:
            optima[str(number)] = round(optimum)
        elif not proven:
            unproven.append(number)
        print(number, optimum, proven, flush=True)
        STORED.write_text(json.dumps({"optima": optima, "unproven": unproven}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
