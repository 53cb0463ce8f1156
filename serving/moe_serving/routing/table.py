"""The routing table: which live shard holds which experts, as the directory publishes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moe_placement.dispatch import NOBODY
from moe_serving.wire.endpoint import Address


@dataclass(frozen=True, slots=True)
class ShardAddress:
    """A live shard. Equal means: the same process at the same address."""

    index: int
    incarnation: str
    address: Address


@dataclass(frozen=True, slots=True)
class TableVersion:
    """Which table it is.

    Attributes:
        epoch: grows with every change; a higher one is newer.
        origin: the process of the directory that made it: a restarted one begins to count anew and may, until it hears
            of ours, arrive at the same epoch with other content.
    """

    epoch: int
    origin: str


@dataclass(frozen=True, eq=False)
class RoutingTable:
    """One version of it; immutable, replaced as a whole.

    Attributes:
        version: see ``TableVersion``.
        shards: the live ones, ``G`` of them. A position in this tuple is not the shard's index.
        held: bool ``[layers, experts, G]``, the copies that may be asked.
        term, revision: of the target that it is on the way to.
    """

    version: TableVersion
    shards: tuple[ShardAddress, ...]
    held: NDArray[np.bool_]
    term: int = 0
    revision: int = 0

    @classmethod
    def empty(cls, layers: int, experts: int) -> RoutingTable:
        """What is in force before the first table: nobody holds anything."""
        return cls(TableVersion(0, ""), (), np.zeros((layers, experts, 0), dtype=bool))

    @cached_property
    def complete(self) -> bool:
        """Whether every expert has a copy that may be asked."""
        return bool(self.held.any(axis=2).all())

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """int64 ``[G + 1]``: the index of the shard at each position; last, and so at ``NOBODY``, ``NOBODY``."""
        return np.array([*(shard.index for shard in self.shards), NOBODY], dtype=np.int64)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The distinct nodes of the shards."""
        return tuple(dict.fromkeys(shard.address.node for shard in self.shards))

    @cached_property
    def node_index(self) -> NDArray[np.int64]:
        """int64 ``[G]``: which of ``nodes`` the shard at each position is on."""
        return np.array([self.nodes.index(shard.address.node) for shard in self.shards], dtype=np.int64)
