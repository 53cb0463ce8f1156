"""Without Numba the kernels run interpreted, and the plans are the same."""

import subprocess
import sys

import pytest

START = """
import sys
if sys.argv[1] == "without":
    sys.modules["numba"] = None  # importing it fails
"""
PLAN = """
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


HURRIED = """
from moe_placement import Limits, RoutingStatistics, h100_nodes, solve
from moe_placement.traces import Traffic, generate_trace

traffic = Traffic(tokens=4000, layers=6, experts=16, top_k=2, communities=4, affinity=1.5, zipf=0.6)
statistics = RoutingStatistics.of_ids(generate_trace(traffic, seed=1).ids, 16)
plan = solve(statistics, h100_nodes(1, 4, 5), limits=Limits(time_limit=1.0))
print(plan.complete, plan.placement.copies.min())
"""


def run(program: str, numba: str) -> str:
    command = [sys.executable, "-c", START + program, numba]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=280).stdout


def plans(numba: str) -> list[str]:
    return run(PLAN, numba).split(maxsplit=1)


@pytest.mark.slow
def test_plans_are_those_of_the_compiled_kernels() -> None:
    compiled, interpreted = plans("with"), plans("without")
    assert (compiled[0], interpreted[0]) == ("True", "False")
    assert compiled[1] == interpreted[1]


def test_the_time_limit_ends_an_interpreted_search() -> None:
    """To its end it would take more than a minute."""
    assert run(HURRIED, "without").split() == ["False", "1"]
