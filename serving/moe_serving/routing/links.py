"""Connections to shards: made and mended by background threads, used by the engine's thread.

A connection is given to the engine only once its handshake is done, so a dead host never delays a layer. A shard that
failed is down for a while that doubles with every failure and starts anew with the first answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Generic

from moe_serving.routing.table import ShardAddress
from moe_serving.threads import SupervisedThread, in_words
from moe_serving.wire.errors import ConnectionLostError, WireError
from moe_serving.wire.transport import C, Fabric, Transport

FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 2.0
"""A restarted shard comes back at a new address by a new table, so this bounds only the return of a paused one."""
CONNECT_SECONDS = 2.0
"""For connecting and handshake: a millisecond when the shard's loop is idle, but a long request may delay them."""

logger = logging.getLogger(__name__)


class ShardLinks(Generic[C]):
    """At most one transport per shard of the table in force.

    Args:
        fabric: how to connect.
        changed: notified when a shard can be asked that could not before.
    """

    def __init__(self, fabric: Fabric[C], changed: threading.Condition) -> None:
        self._fabric = fabric
        self._changed = changed
        # All by incarnation: one process listens at one address.
        self._wanted: set[str] = set()
        self._connecting: set[str] = set()
        self._transports: dict[str, Transport[C]] = {}
        self.changes = 0
        """Grows whenever ``get`` may give something else than before."""
        self._failures: dict[str, int] = {}
        self._problems: dict[str, str] = {}

    def retarget(self, shards: Iterable[ShardAddress]) -> None:
        """Keep links to exactly ``shards``. Called by the thread that uses the transports, between two uses."""
        with self._changed:
            wanted = {shard.incarnation: shard for shard in shards}
            self._wanted = set(wanted)
            for gone in self._transports.keys() - self._wanted:
                self._transports.pop(gone).close()
                self.changes += 1
            for gone in self._failures.keys() - self._wanted:
                del self._failures[gone], self._problems[gone]
            for shard in wanted.values():
                self._connect_in_background(shard)
            self._changed.notify_all()

    def get(self, shard: ShardAddress) -> Transport[C] | None:
        """The transport to ``shard``, None while it is down."""
        return self._transports.get(shard.incarnation)

    def fail(self, shard: ShardAddress, error: WireError) -> None:
        """``shard`` broke or was too late: close its transport and mark it down."""
        logger.warning("shard %d is marked down: %s", shard.index, error)
        with self._changed:
            transport = self._transports.pop(shard.incarnation, None)
            self.changes += 1
            self._count_failure(shard, error)
            self._connect_in_background(shard)
        if transport is not None:
            transport.close()

    def answered(self, shard: ShardAddress) -> None:
        """``shard`` works: its earlier failures count no more."""
        if shard.incarnation in self._failures:
            with self._changed:
                del self._failures[shard.incarnation], self._problems[shard.incarnation]

    def problem(self, shard: ShardAddress) -> str:
        """Why ``shard`` is down, in words."""
        return self._problems.get(shard.incarnation, "not connected yet")

    def close(self) -> None:
        """Close all connections and try no more."""
        self.retarget(())

    def _count_failure(self, shard: ShardAddress, error: WireError) -> None:
        self._failures[shard.incarnation] = self._failures.get(shard.incarnation, 0) + 1
        self._problems[shard.incarnation] = str(error)

    def _connect_in_background(self, shard: ShardAddress) -> None:
        """Called with the lock held."""
        known = shard.incarnation in self._connecting or shard.incarnation in self._transports
        if known or shard.incarnation not in self._wanted:
            return
        self._connecting.add(shard.incarnation)
        SupervisedThread(f"link-{shard.index}", lambda: self._connect(shard)).start()

    def _connect(self, shard: ShardAddress) -> None:
        while self._wait_for_turn(shard):
            try:
                transport = self._fabric.connect(shard.address, CONNECT_SECONDS)
            except WireError as error:
                with self._changed:
                    self._count_failure(shard, error)
                continue
            except Exception as error:
                logger.exception("connecting to shard %d failed", shard.index)
                with self._changed:
                    self._count_failure(shard, ConnectionLostError(in_words(error)))
                continue
            with self._changed:
                self._connecting.discard(shard.incarnation)
                if shard.incarnation in self._wanted:
                    self._transports[shard.incarnation] = transport
                    self.changes += 1
                    self._changed.notify_all()
                    return
            transport.close()
            return

    def _wait_for_turn(self, shard: ShardAddress) -> bool:
        """Sit out the backoff; False when the shard is not wanted any more."""
        with self._changed:
            failures = self._failures.get(shard.incarnation, 0)
            pause = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (failures - 1)) if failures else 0.0
            until = time.monotonic() + pause
            while shard.incarnation in self._wanted and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            if shard.incarnation not in self._wanted:
                self._connecting.discard(shard.incarnation)
                return False
        return True
