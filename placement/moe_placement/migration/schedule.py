"""A migration: rounds of parallel copies, each followed by a switch of the routing table and by frees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.topology import Topology

CHECKPOINT = -1
"""Source of a copy that no shard holds any more: it is read from the checkpoint."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy an expert's weights from a shard (or ``CHECKPOINT``) into a free buffer of another."""

    layer: int
    expert: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Free:
    """Give up a copy; allowed once the switch of its round is acknowledged."""

    layer: int
    expert: int
    shard: int


@dataclass(frozen=True, slots=True)
class Round:
    """Copies that run side by side, then a switch that makes them live, then frees.

    A shard receives at most one copy in a round and sends at most one.
    """

    copies: tuple[Copy, ...]
    frees: tuple[Free, ...]


@dataclass(frozen=True, slots=True)
class Migration:
    """An ordered schedule.

    Attributes:
        rounds: in order; stopping after any of them, or inside one, leaves every expert served.
        complete: whether the end is the target; False if a limit on copies stopped it before.
        seconds: predicted, one round after the other at the bandwidth left to moves.
        bytes_in, bytes_out: float64 ``[shards]``, over each shard's link.
    """

    rounds: tuple[Round, ...]
    complete: bool
    seconds: float
    bytes_in: NDArray[np.float64]
    bytes_out: NDArray[np.float64]

    @property
    def copies(self) -> int:
        """Copies in all rounds."""
        return sum(len(step.copies) for step in self.rounds)

    @property
    def busiest_link_bytes(self) -> float:
        """Bytes over the busiest link in one direction."""
        return float(max(self.bytes_in.max(initial=0), self.bytes_out.max(initial=0)))

    def states(self, held: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
        """The live copies bool ``[layers, experts, shards]`` after each switch and each free; one array, reused."""
        live = held.copy()
        for step in self.rounds:
            for copy in step.copies:
                live[copy.layer, copy.expert, copy.target] = True
            yield live
            for free in step.frees:
                live[free.layer, free.expert, free.shard] = False
                yield live


def round_seconds(copies: tuple[Copy, ...], topology: Topology, bandwidth_share: float) -> float:
    """Seconds of the slowest copy of a round, at the given share of each link's bandwidth."""
    costs = topology.costs
    slowest = 0.0
    for copy in copies:
        near = copy.source != CHECKPOINT and topology.node_of_shard[copy.source] == topology.node_of_shard[copy.target]
        bandwidth = costs.link_bandwidth if near else costs.network_bandwidth
        slowest = max(slowest, costs.bytes_per_expert / (bandwidth * bandwidth_share))
    return slowest
