"""The attention replica's end: one connection to each api that asks it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from moe_contract.applications import Network
from moe_serving.streams.messages import StreamEvent, encode_events
from moe_serving.streams.receiver import SUBJECT
from moe_serving.wire.aio import Connection, connect
from moe_serving.wire.endpoint import Address
from moe_serving.wire.errors import WireError
from moe_serving.wire.kinds import StreamKind

PULSE_S = 1.0
"""So often a replica without news says that it is well; see ``receiver.SILENCE_S``."""


class StreamSender:
    """Sends events to one api; all that come while a frame is under way go into the next one.

    Args:
        well: whether answers go on here. When they do not, the connection is closed, so that the api asks elsewhere.

    Attributes:
        lost: set once the api cannot be reached any more.
    """

    def __init__(self, connection: Connection, well: Callable[[], bool]) -> None:
        self.lost = asyncio.Event()
        self._connection = connection
        self._well = well
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: list[StreamEvent] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def push(self, event: StreamEvent) -> None:
        """Queue an event from any thread. Bounded by the tokens of the requests under way."""
        with self._lock:
            first = not self._waiting
            self._waiting.append(event)
        if first:
            self._loop.call_soon_threadsafe(self._news.set)

    async def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._send())
                both.create_task(self._notice_end())
        except* (WireError, _UnwellError):
            pass  # whoever waits for `lost` cancels its requests
        finally:
            self.lost.set()
            await self._connection.close()

    async def _send(self) -> None:
        while True:
            await self._wait_for_news()
            with self._lock:
                events, self._waiting = self._waiting, []
            if events:
                await self._connection.send(StreamKind.TOKENS, encode_events(events))
            elif self._well():
                await self._connection.send(StreamKind.PULSE)
            else:
                raise _UnwellError

    async def _wait_for_news(self) -> None:
        """Until there are events to be sent, or a pulse is due."""
        try:
            async with asyncio.timeout(PULSE_S):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    async def _notice_end(self) -> None:
        while True:
            await self._connection.receive()


class _UnwellError(Exception):
    """Answers do not go on here."""


class SenderPool:
    """The connections of one replica, made when first needed.

    Args:
        name: of the replica, by which ``ReplicaLostError`` calls it.
        well: see ``StreamSender``.
    """

    def __init__(self, name: str, node: str, network: Network, well: Callable[[], bool] = lambda: True) -> None:
        self._name = name
        self._well = well
        self._node = node
        self._network = network
        self._senders: dict[bytes, StreamSender] = {}
        self._connecting: dict[bytes, asyncio.Task[StreamSender]] = {}

    async def get(self, address: Address) -> StreamSender:
        """The connection to an api.

        Raises:
            WireError: it cannot be reached.
        """
        sender = self._senders.get(address.key)
        if sender is not None and not sender.lost.is_set():
            return sender
        # One attempt per api, for all who wait for it: an api that does not answer must not delay the others' answers.
        connecting = self._connecting.get(address.key)
        if connecting is None:
            connecting = self._connecting[address.key] = asyncio.create_task(self._connect(address))
            connecting.add_done_callback(lambda done: self._connected(address, done))
        return await asyncio.shield(connecting)

    async def close(self) -> None:
        """Close all connections."""
        for connecting in self._connecting.values():
            connecting.cancel()
        await asyncio.gather(*(sender.close() for sender in self._senders.values()))

    async def _connect(self, address: Address) -> StreamSender:
        self._forget_lost()
        connection = await connect(address, SUBJECT, self._name, node=self._node, network=self._network)
        sender = self._senders[address.key] = StreamSender(connection, self._well)
        return sender

    def _connected(self, address: Address, done: asyncio.Task[StreamSender]) -> None:
        del self._connecting[address.key]
        if not done.cancelled():
            done.exception()  # whoever waits gets it; perhaps nobody does any more

    def _forget_lost(self) -> None:
        self._senders = {key: sender for key, sender in self._senders.items() if not sender.lost.is_set()}
