"""How many copies each shard shall hold of a layer, before it is said which: even, near to what is held, and so that
nodes can be told apart.

Array arguments: ``int64 [shards]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moe_placement.placement import Placement

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Room:
    """What shards can hold of one layer.

    Attributes:
        limits: copies of distinct experts that each shard has slots for.
        node: of each shard.
        experts, copies: what shall be placed: so many copies of so many experts.
    """

    limits: Ints
    node: Ints
    experts: int
    copies: int

    @classmethod
    def of(cls, shard_slots: Sequence[int], nodes: Sequence[str], experts: int, copies: int) -> Room:
        """``shard_slots`` and ``nodes`` as for ``balanced_placement``."""
        limits = np.minimum(np.asarray(shard_slots, dtype=np.int64), experts)
        return cls(limits, _node_numbers(nodes, len(limits)), experts, copies)

    @property
    def wanted(self) -> int:
        return self.experts * self.copies

    def suffices(self, most: int) -> bool:
        """Whether there are slots for all copies where no node holds more than ``most`` of one expert."""
        slots = np.bincount(self.node, self.limits)
        return bool(np.minimum(slots, most * self.experts).sum() >= self.wanted)

    @cached_property
    def most_on_a_node(self) -> int:
        """The fewest copies of one expert that a node must be able to hold, for all copies to find room.

        1 where there are enough nodes, with enough slots: ``min(slots of the node, experts)`` summed over nodes is no
        less than all copies.
        """
        return next(most for most in range(1, self.copies + 1) if self.suffices(most))

    @property
    def keeps_nodes_apart(self) -> bool:
        """Whether ``most_on_a_node`` forbids anything."""
        return self.most_on_a_node < self.copies

    def even(self, kept: Ints, held: Ints, first: int) -> Ints:
        """Copies for each shard, ``wanted`` in all and none above its limit, as near to ``kept`` as is fair.

        What is kept stays, and what is missing goes to those that have least. But a shard that holds less than half of
        its even share, as a new one does, gets all of it: those that have most give it up. No node gets more than
        ``most_on_a_node`` copies of each expert: then experts can be dealt out to these quotas, with so many on a node
        at most and each on distinct shards. (Give each shard the part ``quota / experts`` of every expert: a flow that
        keeps all bounds, which are whole numbers; so there is one in whole numbers.)

        Args:
            kept: of the copies that a shard has now those that count, at most ``copies`` of an expert in all.
            held: all of them.
            first: what does not divide goes to shards in turn, beginning with this one, so that layers even each other
                out.
        """
        usable = self.limits > 0
        share = np.minimum(self.wanted // int(usable.sum()), self.limits)
        poor = usable & (2 * held < share)
        low, high = np.minimum(kept, self.limits), self.limits
        giving = np.where(poor, self.limits, low)
        if poor.any() and giving.sum() >= self.wanted:
            low, high = np.zeros_like(low), giving
        return self._within_nodes(low, high, first)

    def _within_nodes(self, low: Ints, high: Ints, first: int) -> Ints:
        """Even quotas between ``low`` and ``high``, but for nodes that would get too many: these get what they may."""
        quota = _even(self.wanted, low, high, first)
        most, full = self.most_on_a_node * self.experts, np.zeros(len(quota), dtype=bool)
        while (crowded := (np.bincount(self.node, quota) > most)[self.node]).any():
            for node in np.unique(self.node[crowded]):
                own = self.node == node
                quota[own] = _even(most, np.zeros_like(low[own]), quota[own], first)
            full |= crowded
            rest = self.wanted - int(quota[full].sum())
            top = high if high[~full].sum() >= rest else self.limits
            quota[~full] = _even(rest, low[~full], top[~full], first)
        return quota


def _even(wanted: int, low: Ints, high: Ints, first: int) -> Ints:
    """Shares of ``wanted`` that differ by one at most, but for shares that ``low`` or ``high`` bounds."""
    level = _level(wanted, low, high)
    shares: Ints = np.clip(level, low, high)
    more = np.flatnonzero((low <= level) & (level < high))
    turn = np.sort((more - first) % max(1, len(low)))[: max(0, wanted - int(shares.sum()))]
    shares[(turn + first) % max(1, len(low))] += 1
    return shares


def _level(wanted: int, low: Ints, high: Ints) -> int:
    """The highest that all shares can be raised to: found by halving."""
    below, above = 0, int(high.max(initial=0)) + 1
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if np.clip(middle, low, high).sum() <= wanted else (below, middle)
    return below


def _node_numbers(nodes: Sequence[str], shards: int) -> Ints:
    """Numbers 0 .. n - 1 of the nodes of shards; shards whose node is not known (``""``) are on nodes of their own."""
    names = [name or f"\x00{index}" for index, name in enumerate(nodes)] if nodes else [""] * shards
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def could_be_apart(placement: Placement, min_copies: int, shard_slots: Sequence[int], nodes: Sequence[str]) -> bool:
    """Whether an expert is on fewer than ``min_copies`` nodes though there are enough, with slots enough, for all.

    ``shard_slots`` and ``nodes`` as for ``balanced_placement``.
    """
    room = Room.of(shard_slots, nodes, placement.experts, min_copies)
    if min_copies < 2 or not room.suffices(1):
        return False
    layer, expert, shard = placement.holders
    pairs, count = placement.layers * placement.experts, int(room.node.max()) + 1
    visited = np.unique((layer * placement.experts + expert) * count + room.node[shard]) // count
    return bool((np.bincount(visited, minlength=pairs) < min_copies).any())
