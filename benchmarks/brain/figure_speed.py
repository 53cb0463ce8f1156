"""Figures 1 and 9: how long planning takes at DeepSeek-V3's size and at eight times its cluster."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.loads import shaped
from benchmarks.brain.report import Row
from moe_placement.solver import Limits, Plan, solve
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import h100_nodes
from moe_placement.traces import generate_trace


def statistics_of_speed_traffic(layers: int) -> RoutingStatistics:
    """The traffic of figure 1; layers are generated eight at a time to bound memory, and repeated."""
    some = min(layers, 8)
    trace = generate_trace(replace(p.SPEED_TRAFFIC, layers=some), seed=1)
    ids = np.concatenate([trace.ids] * -(-layers // some), axis=1)[:, :layers]
    return RoutingStatistics.of_ids(ids, p.EXPERTS)


def rows() -> list[Row]:
    """Wall seconds of the machine as it is, p95 over runs; CPU seconds over two cores beside it, which load spares."""
    topology = h100_nodes(p.NODES, p.GPUS_PER_NODE, p.SLOTS_PER_GPU)
    statistics = statistics_of_speed_traffic(p.LAYERS)
    loads = RoutingStatistics.of_loads(shaped("lognormal-1.0", p.LAYERS, p.EXPERTS, np.random.default_rng(0)), p.TOP_K)
    drifted = RoutingStatistics.of_loads(_drifted(loads.load), p.TOP_K)
    joint, joint_plan = _timed(lambda: solve(statistics, topology))
    load_only, load_plan = _timed(lambda: solve(loads, topology))
    moves = Limits(max_moved_slots=int(0.06 * p.LAYERS * topology.slots.sum()))
    again, _ = _timed(lambda: solve(drifted, topology, load_plan.placement, moves))
    affine, _ = _timed(lambda: solve(statistics, topology, joint_plan.placement, moves))
    spare = topology.spare_slots * topology.shards * topology.costs.bytes_per_expert
    name = f"{p.LAYERS} x {p.EXPERTS} -> {int(topology.slots.sum())} slots on {topology.shards} GPUs"
    return [
        *_both(1, f"{name}: joint plan from scratch", joint, 3.0, 1.0),
        *_both(1, f"{name}: load only", load_only, 0.05),
        *_both(1, f"{name}: incremental after drift, load only", again, 0.5),
        *_both(1, f"{name}: incremental, load and affinity", affine, 0.5),
        Row(1, "spare buffers of all GPUs together, beyond the slots", spare / 1e9, unit=" GB"),
        Row(1, "import moe_placement, beyond NumPy", _import_ms(), 60.0, unit=" ms"),
        *_scale(),
    ]


def _import_ms() -> float:
    """Processor time of a fresh Python, the median of some."""
    code = "import numpy, time; t = time.process_time(); import moe_placement; print(time.process_time() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(7)]
    return 1000 * float(np.median([float(run.stdout) for run in runs]))


def _scale() -> list[Row]:
    topology = h100_nodes(p.SCALE_NODES, p.SCALE_GPUS_PER_NODE, p.SCALE_SLOTS_PER_GPU)
    layers = 16
    statistics = statistics_of_speed_traffic(layers)
    samples = {}
    for nodes in (8, p.SCALE_NODES):
        part = h100_nodes(nodes, p.SCALE_GPUS_PER_NODE, p.SCALE_SLOTS_PER_GPU)
        solve(statistics, part)
        samples[nodes] = _run(lambda part=part: solve(statistics, part))
    times = p.LAYERS / layers
    small, large = 8 * 64, p.SCALE_NODES * 64
    growth = samples[p.SCALE_NODES][1] / samples[8][1]
    allowed = large * np.log(large) / (small * np.log(small))
    name = f"{p.LAYERS} x {p.EXPERTS} -> {int(topology.slots.sum())} slots on {topology.shards} GPUs"
    return [
        *_both(
            9, f"{name} (from {layers} layers)", [(w * times, c * times) for w, c in [samples[p.SCALE_NODES]]], 10.0
        ),
        Row(9, "growth of CPU time from 512 to 2,048 slots", growth, allowed),
    ]


def _both(
    figure: int, name: str, runs: list[tuple[float, float]], aim: float, stretch: float | None = None
) -> list[Row]:
    wall, cpu = (np.percentile([run[i] for run in runs], 95) for i in (0, 1))
    return [
        Row(figure, name, float(wall), aim, unit=" s", stretch=stretch),
        Row(figure, "   the same, CPU seconds over 2 cores", float(cpu / 2), unit=" s"),
    ]


def _run(job: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def _timed(job: Callable[[], Plan]) -> tuple[list[tuple[float, float]], Plan]:
    plan = job()
    return [_run(job) for _ in range(p.SPEED_RUNS)], plan


def _drifted(load: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(1)
    return load * np.exp(0.3 * random.normal(size=load.shape))
