"""The search for one split: a problem made ready for the kernel, run from one start or from many."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.solver import families, price_kernel, split_kernel
from moe_placement.solver.problem import UNLIMITED, LayerProblem
from moe_placement.topology import Topology

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RIGOUR = 4.0
"""Remote copies per token that a part's relative overload of 1 is worth."""
PATIENCE = 100
"""Steps without progress before the search stops."""
HAZARD = 3.5
"""Remote copies per token that a surge by a relative load of 1 is worth. In modelled time it is about 2; more is paid,
since a surge is felt by every token and a remote copy by one. (``RIGOUR`` is more still: it enforces a limit.)"""
SMALL, RESTARTED, MOST = 32, 12288, 96
"""Up to ``SMALL`` experts the search also starts from random splits, ``RESTARTED`` / experts^2 but at most ``MOST``:
steps are cheap there, and traps deep. 105 of 105 small instances with known optima are then solved; with half as many
restarts 104 are."""
STERN = 32.0
"""How many times ``RIGOUR`` overload costs in these searches: one expert more or less is much of a part's load."""
URGENCY = 1.0
"""How strongly the price of a visit follows how often a part is visited."""


@dataclass(frozen=True, slots=True)
class Search:
    """One split, ready for the kernel; masks are improved in place, until the deadline as far as whole searches go."""

    arrays: tuple[price_kernel.Smalls, Floats, Ints, price_kernel.Smalls]
    resident: bool
    load: Floats
    covariance: Floats
    fewest: Ints
    slots_of: Ints
    capacity: Ints
    share: Floats
    slack: float
    risk: float
    seed: int
    thorough: bool
    deadline: float

    @classmethod
    def of(
        cls, problem: LayerProblem, topology: Topology, capacity: Ints, share: Floats, slots_of: Ints, fewest: Ints
    ) -> Search:
        sets, parts = problem.sets, len(capacity)
        weight = np.full(len(sets), 1.0 / len(sets))
        if len(problem.load) <= SMALL:  # few experts: many tokens choose the same
            sets, counts = np.unique(np.sort(sets, axis=1), axis=0, return_counts=True)
            weight = counts / len(problem.sets)
        small = sets.astype(np.int32)
        first, members = price_kernel.csr(small, len(problem.load))
        if problem.local:
            beyond = np.arange(parts + 1) > fewest[:, None]
            slots_of = np.where(beyond, UNLIMITED, slots_of)
        total = max(float(problem.load.sum()), 1e-300)
        covariance, risk = np.zeros((0, 0)), 0.0
        if problem.covariance is not None:
            covariance = problem.covariance_among(slice(None)) * (problem.risk / total) ** 2
            risk = HAZARD / parts
        return cls(
            (small, weight, first, members), topology.resident_tokens, problem.load / total, covariance, fewest,
            slots_of, capacity, share, problem.slack, risk, problem.seed, problem.thorough, problem.deadline,
        )  # fmt: skip

    def improve(self, masks: Ints, origin: Ints, budget: int) -> None:
        """Search from ``masks``, then once more with a higher price on the parts that most tokens come to.

        The busiest network card is the one that counts, and parts with equal loads need not be visited equally often.
        """
        parts = len(self.capacity)
        prices = np.ones(parts)
        patience = PATIENCE if self.thorough else PATIENCE // 4
        if not self._late():
            self._run(masks, origin, budget, prices, patience, RIGOUR, self.seed)
        if len(masks) > SMALL and self.thorough and not self._late():
            visits = _visits(self.arrays[0], masks, parts)
            prices = 1 + URGENCY * (visits / max(float(visits.mean()), 1e-300) - 1)
            self._run(masks, origin, budget, prices, PATIENCE // 2, RIGOUR, self.seed)

    def restart(self, masks: Ints, origin: Ints) -> None:
        """Try random splits as well, and keep the best."""
        parts, experts = len(self.capacity), len(masks)
        prices = np.ones(parts)
        random = np.random.default_rng(self.seed)
        if self._late():
            return
        best = self._run(masks, origin, UNLIMITED, prices, 2 * PATIENCE, STERN * RIGOUR, self.seed)
        for number in range(min(MOST, RESTARTED // experts**2)):
            if self._late():
                return
            order = random.permutation(experts)
            trial = masks.copy()
            # Slots stay as they are used: who has which mask is shuffled, and then improved.
            trial[order] = masks[np.sort(order)]
            trial[masks == 0] = 0
            found = self._run(trial, origin, UNLIMITED, prices, 2 * PATIENCE, STERN * RIGOUR, self.seed + number + 1)
            if found < best - 1e-12:
                best = found
                masks[:] = trial

    def _late(self) -> bool:
        return time.monotonic() > self.deadline

    def _run(
        self, masks: Ints, origin: Ints, budget: int, prices: Floats, patience: int, rigour: float, seed: int
    ) -> float:
        return float(
            split_kernel.refine(
                *self.arrays, masks, self.load, self.covariance, self.fewest, self.slots_of, self.capacity, self.share,
                families.hits(len(prices)), families.visit_costs(prices)[int(self.resident)], self.slack, rigour,
                self.risk, patience, seed, origin, budget, len(masks) <= SMALL,
                self.deadline,
            )
        )  # fmt: skip


def _visits(sets: price_kernel.Smalls, masks: Ints, parts: int) -> Floats:
    """float64 ``[parts]``: fraction of tokens that single copies take to each part."""
    of_pair = np.where(sets >= 0, masks[sets], 0)
    forced = np.bitwise_or.reduce(np.where(np.bitwise_count(of_pair) == 1, of_pair, 0), axis=1)
    return np.asarray(((forced[:, None] >> np.arange(parts)) & 1).mean(axis=0), dtype=np.float64)
