"""A migration: rounds of parallel transfers, each followed by a switch of the routing table and by frees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.ranges import as_ranges
from moe_placement.topology import Topology

CHECKPOINT = -1
"""Source of a transfer of what no shard holds any more: it is read from the checkpoint."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bring a copy of an expert from a shard (or ``CHECKPOINT``) into a free buffer of another."""

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
    """Transfers that run side by side, then a switch that makes them live, then frees.

    A shard receives at most one in a round and sends at most one.
    """

    transfers: tuple[Transfer, ...]
    frees: tuple[Free, ...]


@dataclass(frozen=True, slots=True)
class Losses:
    """What was lost before the first round.

    Attributes:
        dead: the topology's dead shards.
        gone: shards of the placement in force that the topology has no more.
        copies: that both held.
        unserved: (layer, expert) pairs that no other shard holds.
    """

    dead: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()
    copies: int = 0
    unserved: int = 0

    @property
    def text(self) -> str:
        """In words; an empty text where no shard is dead or gone."""
        if not self.dead and not self.gone:
            return ""
        which = [(self.dead, "dead"), (self.gone, "gone from the topology")]
        text = " and ".join(
            f"shard{'s' if len(shards) > 1 else ''} {as_ranges(shards)} {'are' if len(shards) > 1 else 'is'} {what}"
            for shards, what in which
            if shards
        )
        text += f": {self.copies} copies are lost"
        if self.unserved:
            text += f", and {self.unserved} experts have no other: nothing serves them until they are read again"
        return text


@dataclass(frozen=True, slots=True)
class Migration:
    """An ordered schedule.

    Attributes:
        rounds: in order; stopping after any of them, or inside one, leaves every expert served (but for those that
            had lost all their copies, until theirs is made).
        complete: whether the end is the target; False if a limit on transfers stopped it before.
        seconds: predicted, one round after the other at the bandwidth left to moves.
        bytes_in, bytes_out: float64 ``[shards]``, over each shard's link.
        losses: copies that are lost already, with shards that are dead.
    """

    rounds: tuple[Round, ...]
    complete: bool
    seconds: float
    bytes_in: NDArray[np.float64]
    bytes_out: NDArray[np.float64]
    losses: Losses = Losses()

    @property
    def transfers(self) -> int:
        """In all rounds."""
        return sum(len(step.transfers) for step in self.rounds)

    @property
    def from_checkpoint(self) -> int:
        """Those of them that no shard can give."""
        return sum(each.source == CHECKPOINT for step in self.rounds for each in step.transfers)

    @property
    def text(self) -> str:
        """The schedule in a sentence, without its full stop."""
        text = (
            f"the move takes {len(self.rounds)} rounds and about {self.seconds:.3g} s, "
            f"{self.busiest_link_bytes / 1e9:.3g} GB over the busiest link"
        )
        if self.from_checkpoint:
            text += f"; {self.from_checkpoint} of its {self.transfers} transfers are read from the checkpoint"
        if self.losses.text:
            text = f"{self.losses.text}; {text}"
        return text if self.complete else f"{text}; it ends before the target, at a limit"

    @property
    def busiest_link_bytes(self) -> float:
        """Bytes over the busiest link in one direction."""
        return float(max(self.bytes_in.max(initial=0), self.bytes_out.max(initial=0)))

    def states(self, held: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
        """The live copies bool ``[layers, experts, shards]`` after each switch and each free; one array, reused.

        ``held`` is of the placement in force; what dead shards have of it counts as lost from the beginning.
        """
        live = held.copy()
        live[:, :, [*self.losses.dead, *(shard for shard in self.losses.gone if shard < live.shape[2])]] = False
        for step in self.rounds:
            for each in step.transfers:
                live[each.layer, each.expert, each.target] = True
            yield live
            for free in step.frees:
                live[free.layer, free.expert, free.shard] = False
                yield live


def round_seconds(transfers: tuple[Transfer, ...], topology: Topology, bandwidth_share: float) -> float:
    """Seconds of the slowest transfer of a round, at the given share of each link's bandwidth."""
    costs = topology.costs
    slowest = 0.0
    for each in transfers:
        near = each.source != CHECKPOINT and topology.node_of_shard[each.source] == topology.node_of_shard[each.target]
        bandwidth = costs.link_bandwidth if near else costs.network_bandwidth
        slowest = max(slowest, costs.bytes_per_expert / (bandwidth * bandwidth_share))
    return slowest
