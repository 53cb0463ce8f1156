"""The table in force and the connections that go with it, shared by the engine's thread and the directory's sync."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from moe_serving.routing.choosers import TableChoosers
from moe_serving.routing.links import ShardLinks
from moe_serving.routing.table import RoutingTable, ShardAddress, TableVersion
from moe_serving.wire.transport import C, Fabric


class Routes(Generic[C]):
    """``update`` and ``version`` are for any thread, all else is for the engine's.

    Args:
        fabric: how shards are reached.
        node: the node we run on.
        on_wait: see ``RemoteExperts``.
    """

    def __init__(
        self, layers: int, experts: int, fabric: Fabric[C], node: str, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        self.on_wait = on_wait
        self._node = node
        self._changed = threading.Condition()
        self._newest = RoutingTable.empty(layers, experts)
        self._in_use: RoutingTable | None = None
        self._linked = self._newest
        self.links = ShardLinks(fabric, self._changed)
        self._choosers: TableChoosers | None = None
        self._changes_seen = 0

    def update(self, table: RoutingTable) -> None:
        """Put a newer table in force and wake a layer that waits; an older one is ignored."""
        with self._changed:
            if table.version.epoch > self._newest.version.epoch:
                self._newest = table
                self._changed.notify_all()

    @property
    def newest(self) -> RoutingTable:
        return self._newest

    @property
    def version(self) -> TableVersion:
        """The version that nothing under way is behind: what may be acknowledged to the directory."""
        with self._changed:
            return (self._in_use or self._newest).version

    def adopt(self) -> RoutingTable:
        """The newest table, with links to its shards; it counts as in use until ``release`` or the next ``adopt``."""
        with self._changed:
            table = self._in_use = self._newest
        if table is not self._linked:
            self.links.retarget(table.shards)
            self._linked = table
            self._choosers = None
        return table

    def release(self) -> None:
        """No table is in use any more."""
        with self._changed:
            self._in_use = None

    def choosers(self) -> TableChoosers:
        """Of the table adopted last and its shards that can be asked now; the same ones as long as neither changes."""
        changes = self.links.changes
        if self._choosers is None or changes != self._changes_seen:
            self._choosers = TableChoosers(self._linked, self.connected(), self._node)
            self._changes_seen = changes
        return self._choosers

    def connected(self) -> NDArray[np.bool_]:
        """bool ``[G]``: the shards of the table adopted last that can be asked now."""
        return np.array([self.is_connected(shard) for shard in self._linked.shards], dtype=bool)

    def is_connected(self, shard: ShardAddress) -> bool:
        return self.links.get(shard) is not None

    def wait_for_change(self, timeout: float) -> None:
        """Sleep until there is a newer table than the one in use, or a shard came back, or ``timeout`` seconds passed.

        A change just before the call may be slept over: keep ``timeout`` short.
        """
        with self._changed:
            if self._newest is self._in_use:
                self._changed.wait(timeout)

    def close(self) -> None:
        """Close all connections."""
        self.links.close()
