"""What a plan must respect, and how hard to look for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moe_placement.errors import InfeasiblePlacementError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of ``solve``.

    Attributes:
        min_copies: of every expert, each on a shard of its own, and on a node of its own while there are enough.
        max_moved_slots: new copies that the plan may make, over all layers; None for no limit.
        max_moved_bytes: the same in bytes of weights; None for no limit.
        time_limit: seconds after which layers not yet reached keep what they have (or a load-balanced placement).
        risk: how many standard deviations (over the windows seen) the load of a node or shard is assumed to surge by.
        node_locality: keep all copies of an expert on one node (beyond what ``min_copies`` asks for).
        samples: sampled sets per layer to look at; more find finer structure and take longer.
        workers: threads; layers are independent.
        seed: equal inputs and seeds give equal plans (as long as the time limit is not reached).
    """

    min_copies: int = 1
    max_moved_slots: int | None = None
    max_moved_bytes: float | None = None
    time_limit: float = 60.0
    risk: float = 1.4
    node_locality: bool = False
    samples: int = 4096
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.min_copies < 1:
            raise InfeasiblePlacementError(f"min_copies is {self.min_copies}; every expert needs at least 1 copy")
        for name in ("max_moved_slots", "max_moved_bytes"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InfeasiblePlacementError(f"{name} is {value}; it must be 0 or more")
        if not (math.isfinite(self.time_limit) and self.time_limit > 0):
            raise InfeasiblePlacementError(f"time_limit is {self.time_limit}; it must be a finite number above 0")
        if self.samples < 0 or self.workers < 1 or not self.risk >= 0:
            raise InfeasiblePlacementError(
                f"samples {self.samples} and risk {self.risk} must be >= 0, workers {self.workers} >= 1"
            )

    def moved_slots(self, bytes_per_expert: float) -> int | None:
        """New copies allowed by both limits together; None for no limit."""
        if self.max_moved_bytes is None:
            return self.max_moved_slots
        by_bytes = int(self.max_moved_bytes // bytes_per_expert)
        return by_bytes if self.max_moved_slots is None else min(by_bytes, self.max_moved_slots)
