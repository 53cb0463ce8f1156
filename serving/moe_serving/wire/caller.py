"""Calls to a process that others find: Serve's handles, say. Found once, and again when it is gone or stands still."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from moe_contract.applications import Network
from moe_serving.wire.aio import refuses
from moe_serving.wire.calls import CallConnection
from moe_serving.wire.endpoint import Address
from moe_serving.wire.errors import ConnectionLostError, PeerGoneError

LATE_S = 0.5
"""A call given up so long after it should have been answered was not answered at all: the connection is closed, and the
next call looks for the process anew, which may be another one by then."""

logger = logging.getLogger(__name__)


class Caller:
    """One per process that is called.

    Args:
        find: tells where it listens now; may wait, or raise anything.
        name: who we are, for the other's log.
        node: the node we run on.
    """

    def __init__(self, find: Callable[[], Awaitable[Address]], name: str, node: str, network: Network) -> None:
        self._find = find
        self._name = name
        self._node = node
        self._network = network
        self._connection: CallConnection | None = None
        self._connecting = asyncio.Lock()

    async def call(self, method: str, *arguments: Any, hold: float = 0.0) -> Any:
        """Call a method for which twice is as good as once: where a connection turns out to be lost, it is called
        again by a new one. Waits as long as it takes.

        Args:
            hold: seconds for which the answer may be held.

        Raises:
            CallFailedError: the method raised.
            PeerGoneError: the process that answered until now has ended.
            WireError: it cannot be reached.
            Exception: whatever ``find`` raises.
        """
        known = self._connection
        if known is not None:
            try:
                return await self._ask(known, method, arguments, hold)
            except PeerGoneError:
                raise
            except ConnectionLostError as error:
                logger.debug("%s is called again: %s", method, error)
        return await self._ask(await self._connect(), method, arguments, hold)

    def close(self) -> None:
        """Calls under way fail."""
        if self._connection is not None:
            self._connection.close()

    async def _connect(self) -> CallConnection:
        async with self._connecting:
            if self._connection is None:
                address = await self._find()
                self._connection = await CallConnection.open(address, self._name, self._node, self._network)
            return self._connection

    async def _ask(self, connection: CallConnection, method: str, arguments: tuple[Any, ...], hold: float) -> Any:
        loop = asyncio.get_running_loop()
        due = loop.time() + hold + LATE_S
        try:
            return await connection.call(method, *arguments)
        except asyncio.CancelledError:
            if loop.time() > due:
                connection.close()
            raise
        except ConnectionLostError as error:
            if self._connection is connection:
                self._connection = None
            if await refuses(connection.address, node=self._node, network=self._network):
                raise PeerGoneError(str(error)) from error
            raise
