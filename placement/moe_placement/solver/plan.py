"""What a solve brings: a placement, what it is predicted to be worth, and what it takes to get there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.placement import Placement
from moe_placement.ranges import as_ranges
from moe_placement.simulation import Figures
from moe_placement.topology import Topology


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement with its figures.

    Attributes:
        placement: the one proposed; it is ``current`` itself where nothing better was found.
        current: the one in force, if any.
        topology: that both are meant for.
        baseline: what it is judged against: ``current`` with as few repairs as shards without slots and the limits
            force, mostly ``current`` itself; None without a current placement.
        before: predicted figures of ``baseline`` on the statistics' samples; None without a current placement.
        after: the same of ``placement``.
        left_out: layers whose search the time limit cut short or did not reach; they keep the best found until then.
        seconds: that solving took.
    """

    placement: Placement
    current: Placement | None
    topology: Topology
    baseline: Placement | None
    before: Figures | None
    after: Figures
    left_out: tuple[int, ...]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether all searches were done before the time limit."""
        return not self.left_out

    @property
    def moved(self) -> NDArray[np.bool_]:
        """bool ``[layers, experts, shards]``: copies to be made; all of them without a current placement."""
        if self.current is None:
            return self.placement.held
        return self.placement.held & ~with_shards(self.current.held, self.placement.shards)

    @property
    def moved_slots(self) -> int:
        """Copies to be made."""
        return int(self.moved.sum())

    @property
    def repairs(self) -> int:
        """Copies made or given up whatever they gain: from ``current`` to ``baseline``."""
        if self.current is None or self.baseline is None:
            return 0
        shards = max(self.current.shards, self.baseline.shards)
        return int((with_shards(self.current.held, shards) != with_shards(self.baseline.held, shards)).sum())

    @property
    def due(self) -> str:
        """The repairs in words."""
        dead = f"dead shards ({as_ranges(self.topology.dead)}), " if self.topology.dead else ""
        return (
            f"{self.repairs} changes, copies made and copies given up, are due whatever they gain: {dead}shards "
            "without slots, or copies that the limits ask for"
        )

    @property
    def moved_bytes(self) -> float:
        """Bytes of weights to be copied."""
        return self.moved_slots * self.topology.costs.bytes_per_expert

    @property
    def gain(self) -> float:
        """Modelled seconds saved per layer and step; 0 without a current placement."""
        return 0.0 if self.before is None else self.before.seconds - self.after.seconds


def with_shards(held: NDArray[np.bool_], shards: int) -> NDArray[np.bool_]:
    """``held`` with as many shards as asked for: shards are matched by index."""
    missing = max(0, shards - held.shape[2])
    return np.pad(held, ((0, 0), (0, 0), (0, missing)))[:, :, :shards]
