"""The routing table in force, its version, and when each copy left it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moe_serving.directory.actions import Copies
from moe_serving.routing.table import RoutingTable, ShardAddress, TableVersion


class Publication:
    """Epochs only grow, also over a restart of the directory: attention replicas tell which one they have."""

    def __init__(self, layers: int, experts: int, shards: int) -> None:
        self.origin = secrets.token_hex(8)
        self.epoch = 0
        self.published = False
        """Whether there is a table of ours at all. Until then attention goes on by that of an earlier directory."""
        self.copies: Copies = np.zeros((layers, experts, shards), dtype=bool)
        """What the table says, with shards numbered as in the target."""
        self.table = RoutingTable.empty(layers, experts)
        self._left: NDArray[np.int64] = np.ones(self.copies.shape, dtype=np.int64)
        self._term = self._revision = 0

    def resize(self, shards: int) -> None:
        """The number of shards changed; those that are gone leave the table."""
        kept = min(shards, self.copies.shape[2])
        copies = np.zeros((*self.copies.shape[:2], shards), dtype=bool)
        left = np.ones(copies.shape, dtype=np.int64)
        copies[:, :, :kept], left[:, :, :kept] = self.copies[:, :, :kept], self._left[:, :, :kept]
        self.copies, self._left = copies, left
        if any(shard.index >= shards for shard in self.table.shards):
            self.epoch += 1
            self._make_table([shard for shard in self.table.shards if shard.index < shards])

    def publish(self, copies: Copies, addresses: Sequence[ShardAddress], term: int = 0, revision: int = 0) -> bool:
        """Put ``copies`` in force, if that is a change; returns whether it was.

        Args:
            addresses: of the shards that hold any of them, ascending by index.
            term, revision: of the target that it is a step to.
        """
        unchanged = tuple(addresses) == self.table.shards and np.array_equal(copies, self.copies)
        if unchanged and self.published:
            return False
        self.published = True
        self._term, self._revision = term, revision
        self.epoch += 1
        self._left[self.copies & ~copies] = self.epoch
        self.copies = copies.copy()
        self._make_table(addresses)
        return True

    def acknowledged_by(self, version: TableVersion) -> int:
        """The epoch of ours that a replica with a table of ``version`` has reached; -1, none, with a table of another
        directory.

        A table of an earlier directory must not pass for newer than ours, so our epoch then jumps ahead of it. What it
        said is unknown: no copy outside our table counts as left before that jump.
        """
        if version.origin == self.origin:
            return version.epoch
        if version.epoch >= self.epoch and version.origin:
            self.epoch = version.epoch + 1
            self._left[~self.copies] = self.epoch
            self._make_table(self.table.shards)
        return -1

    def released(self, acknowledged: int) -> Copies:
        """The copies outside the table that nobody who has reached epoch ``acknowledged`` routes to."""
        return np.asarray(~self.copies & (self._left <= acknowledged))

    def _make_table(self, addresses: Sequence[ShardAddress]) -> None:
        held = self.copies[:, :, [shard.index for shard in addresses]]
        version = TableVersion(self.epoch, self.origin)
        self.table = RoutingTable(version, tuple(addresses), np.ascontiguousarray(held), self._term, self._revision)
