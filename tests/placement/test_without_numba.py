"""Without Numba the kernels run interpreted, and the plans are the same."""

import subprocess
import sys

PLAN = """
import sys
if sys.argv[1] == "without":
    sys.modules["numba"] = None  # importing it fails
from moe_placement import Limits, RoutingStatistics, balanced_placement, h100_nodes, solve
from moe_placement.compiled import COMPILED
from moe_placement.traces import Traffic, generate_trace

traffic = Traffic(tokens=60, layers=1, experts=36, top_k=4, communities=4, affinity=1.5, zipf=0.6)
statistics, topology = RoutingStatistics.of_ids(generate_trace(traffic, seed=1).ids, 36), h100_nodes(2, 2, 10)
improved = solve(
    statistics, topology, balanced_placement(1, 36, topology.shard_slots, 1), Limits(max_moved_slots=12, workers=1)
)
loads = solve(RoutingStatistics.of_loads(statistics.load, top_k=4), topology, improved.placement, Limits(workers=1))
assert improved.placement.slots.tolist() != improved.current.slots.tolist()
print(COMPILED, solve(statistics, topology).placement.slots, improved.placement.slots, loads.placement.slots)
"""


def plans(numba: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PLAN, numba], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.split(maxsplit=1)


def test_plans_are_those_of_the_compiled_kernels() -> None:
    compiled, interpreted = plans("with"), plans("without")
    assert (compiled[0], interpreted[0]) == ("True", "False")
    assert compiled[1] == interpreted[1]
