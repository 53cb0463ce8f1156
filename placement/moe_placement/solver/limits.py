"""What a plan must respect, and how hard to look for it."""

from __future__ import annotations

from dataclasses import dataclass

from moe_placement.checks import real, truth, whole
from moe_placement.errors import InfeasiblePlacementError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of ``solve``.

    Attributes:
        min_copies: of every expert, each on a shard of its own, and on a node of its own while there are enough.
        max_moved_slots: new copies that the plan may make, over all layers; None for no limit. A first
            placement, without a current one, is not limited by it.
        max_moved_bytes: the same in bytes of weights.
        time_limit: seconds after which no further search begins; layers not yet reached keep what they have (or a
            load-balanced placement). One search takes hundredths of a second.
        risk: how many standard deviations (over the windows seen) the load of a node is assumed to surge by; None for
            what the slowest of all shards is expected to, since a step is over when that one is.
        shard_risk: the same of a shard inside its node; None for what the slowest shard of a node is expected to.
        node_locality: keep all copies of an expert on one node, but for what ``min_copies`` asks for and for experts
            whose load is more than a node's fair part.
        first_layer: that is searched first, then those after it and those before: the time limit leaves out the last
            of them. Counted around, so any number is one.
        samples: sampled sets per layer to look at; more find finer structure and take longer.
        workers: threads; layers are independent.
        seed: equal inputs and seeds give equal plans (as long as the time limit is not reached).
    """

    min_copies: int = 1
    max_moved_slots: int | None = None
    max_moved_bytes: float | None = None
    time_limit: float = 60.0
    risk: float | None = None
    shard_risk: float | None = None
    node_locality: bool = False
    first_layer: int = 0
    samples: int = 4096
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        error = InfeasiblePlacementError
        whole(error, "min_copies", self.min_copies, least=1)
        truth(error, "node_locality", self.node_locality)
        whole(error, "first_layer", self.first_layer)
        whole(error, "samples", self.samples)
        whole(error, "workers", self.workers, least=1, most=1024)
        whole(error, "seed", self.seed)
        real(error, "time_limit", self.time_limit, above=True)
        for name in ("risk", "shard_risk"):
            if getattr(self, name) is not None:
                real(error, name, getattr(self, name), most=1e6)
        if self.max_moved_slots is not None:
            whole(error, "max_moved_slots", self.max_moved_slots)
        if self.max_moved_bytes is not None:
            real(error, "max_moved_bytes", self.max_moved_bytes)

    def moved_slots(self, bytes_per_expert: float) -> int | None:
        """New copies allowed by both limits together; None for no limit."""
        if self.max_moved_bytes is None:
            return self.max_moved_slots
        by_bytes = int(self.max_moved_bytes // bytes_per_expert)
        return by_bytes if self.max_moved_slots is None else min(by_bytes, self.max_moved_slots)
