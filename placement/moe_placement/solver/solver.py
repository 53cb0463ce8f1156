"""``solve``: statistics and a topology in, a plan out. Layers are independent and run in threads."""

from __future__ import annotations

import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from moe_placement.errors import InfeasiblePlacementError, MismatchError
from moe_placement.placement import Placement
from moe_placement.simulation import summarise
from moe_placement.solver.limits import Limits
from moe_placement.solver.plan import Plan
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology, h100_nodes

if TYPE_CHECKING:
    from moe_placement.solver.candidates import Job, Result

logger = logging.getLogger(__name__)


def solve(
    statistics: RoutingStatistics, topology: Topology, current: Placement | None = None, limits: Limits | None = None
) -> Plan:
    """Place experts so that a modelled step takes least time, within the limits.

    Without ``current`` the placement is made from scratch; with it, the current one is improved by at most
    ``limits.max_moved_slots`` new copies, and no layer gets worse under the cost model. Copies on shards that have no
    slots in ``topology`` (draining, dead or removed) are made anew elsewhere before anything is improved.

    Raises:
        InfeasiblePlacementError: the limits cannot be met; the message names the limit and by how much.
        MismatchError: the current placement is of another model.
    """
    limits = limits or Limits()
    _check(statistics, topology, current, limits)
    compile_kernels()
    return _solve(statistics, topology, current, limits)


@cache
def compile_kernels() -> None:
    """Call every kernel once, before any clock runs: in a fresh environment Numba compiles for longer than a limit may
    be, and which layers were reached would depend on that.
    """
    from moe_placement.compiled import COMPILED  # noqa: PLC0415 - Numba is loaded only to solve

    if not COMPILED:
        return
    from moe_placement.kernel_cache import kernel_directory  # noqa: PLC0415 - imports Numba

    if not any(kernel_directory().glob("*refine-*.nbi")):
        logger.warning(
            "compiling the solver's inner loops: a minute or two, once; they are kept in %s", kernel_directory()
        )
    known = RoutingStatistics.of_ids([[[0, 1]], [[1, 2]], [[2, 3]], [[3, 0]]], 4, windows=2)
    for statistics in (known, RoutingStatistics.of_loads(known.load)):
        for topology in (h100_nodes(2, 2, 2), h100_nodes(1, 2, 3)):
            first = _solve(statistics, topology, None, Limits(workers=1)).placement
            _solve(statistics, topology, first, Limits(workers=1))


def _solve(statistics: RoutingStatistics, topology: Topology, current: Placement | None, limits: Limits) -> Plan:
    from moe_placement.solver.candidates import Job  # noqa: PLC0415 - Numba is loaded only to solve
    from moe_placement.solver.slots import written  # noqa: PLC0415 - as above

    started = time.monotonic()
    job = Job.of(statistics, topology, current, limits, started + limits.time_limit)
    results = _run_all(job, statistics.shape.layers)
    held = np.stack([result.held for result in results])
    baseline = None if job.fallback is None else written(job.fallback, topology, current)
    before = None if current is None else summarise(result.before for result in results if result.before is not None)
    return Plan(
        written(held, topology, current), current, topology, baseline, before,
        summarise(result.after for result in results),
        tuple(layer for layer, result in enumerate(results) if not result.reached), time.monotonic() - started,
    )  # fmt: skip


def _run_all(job: Job, layers: int) -> list[Result]:
    """All layers, in threads that each take the next one: to wake this one for each would cost more than a short
    layer does.
    """
    results: dict[int, Result] = {}
    first = job.limits.first_layer % layers
    waiting = iter([*range(first, layers), *range(first)])

    def run_next(_: int) -> None:
        for layer in waiting:
            results[layer] = job.run(layer)

    # A first placement from loads alone is over sooner than threads hand the interpreter to each other.
    workers = job.limits.workers if len(job.sample) or job.before is not None else 1
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run_next, range(workers)))
    return [results[layer] for layer in range(layers)]


def _check(statistics: RoutingStatistics, topology: Topology, current: Placement | None, limits: Limits) -> None:
    shape = statistics.shape
    if current is not None and (current.layers, current.experts) != (shape.layers, shape.experts):
        raise MismatchError(
            f"the current placement has {current.layers} layers x {current.experts} experts, "
            f"the statistics {shape.layers} x {shape.experts}"
        )
    if not np.isfinite(statistics.load).all() or (statistics.load < 0).any():
        raise MismatchError("statistics hold negative or non-finite loads")
    usable = [min(n, shape.experts) for n in topology.shard_slots if n > 0]
    wanted = shape.experts * limits.min_copies
    if len(usable) < limits.min_copies:
        raise InfeasiblePlacementError(
            f"min_copies {limits.min_copies} needs as many shards with slots, there are {len(usable)}"
        )
    if sum(usable) < wanted:
        raise InfeasiblePlacementError(
            f"{shape.experts} experts x {limits.min_copies} copies need {wanted} slots per layer, the shards have "
            f"{sum(usable)}: {math.ceil(wanted - sum(usable))} too few"
        )
