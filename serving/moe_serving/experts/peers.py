"""Experts from other shards, over the sockets by which attention asks them. Used by the loader's thread alone."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from moe_contract.applications import Network
from moe_serving.checkpoint.landing import landing_on
from moe_serving.checkpoint.reader import ExpertForm, ExpertWeights
from moe_serving.experts.description import ExpertKey
from moe_serving.experts.errors import NotHeldError, PeerRestsError
from moe_serving.experts.pieces import MAX_PIECE_BODY, FetchRequest, Incoming, cuts, doubt_of
from moe_serving.wire.blocking import Connection
from moe_serving.wire.endpoint import Address
from moe_serving.wire.errors import ConnectionLostError, ProtocolError, WireError
from moe_serving.wire.frames import Frame
from moe_serving.wire.transport import Message, decode_frame, encode_frame

CONNECT_SECONDS = 2.0
PIECE_SECONDS = 5.0
"""For one piece: it waits behind requests of attention's, but not for so long."""
REST_SECONDS = 5.0
"""A peer that failed is not asked again before: each try may cost as long as a piece may take."""
MOST_REST_SECONDS = 300.0
"""What a peer sends of one expert was damaged: that rests as long, then twice, four times as long and so on up to this,
so that nobody who has no other source goes on for ever at full speed."""
MOST_ASKED = 4
"""Pieces that are asked for before the first of them has come: the peer need not wait for the next question, nor that
for the way there. So much of them waits in sockets at most."""
_LOOK_SECONDS = 0.2
"""Between two looks at whether the piece that is waited for is still wanted."""


class Peers:
    """At most one connection to each.

    Args:
        subject: the model's digest.
        name: of this shard, for the peers' logs.
        node: it runs on.
        form: of the model's experts.
        device: that is to have them.
    """

    def __init__(
        self, subject: str, name: str, node: str, network: Network, form: ExpertForm, device: torch.device
    ) -> None:
        self._subject = subject
        self._name = name
        self._node = node
        self._network = network
        self._form = form
        self._landing = landing_on(device)
        self._connections: dict[Address, Connection] = {}
        self._resting: dict[Address, float] = {}
        self._damaged: dict[tuple[Address, ExpertKey], tuple[int, float]] = {}
        """How often what a peer sent of an expert was damaged, and until when that rests."""
        self._tags = itertools.count()
        """One for each question, so that no answer is taken for that to another one."""

    def fetch_into(
        self, weights: ExpertWeights, peer: Address, layer: int, expert: int, proceed: Callable[[int], None]
    ) -> tuple[bytes, bytes]:
        """Fill ``weights`` with the expert that ``peer`` holds.

        Args:
            proceed: called with the number of bytes before they are asked for, and with 0 while they are waited for;
                what it raises ends the transfer, and the connection with it: an answer may be on its way.

        Returns:
            The digest of what came, and the one that its bytes had when ``peer`` published it.

        Raises:
            NotHeldError: ``peer`` does not hold it.
            PeerRestsError, WireError: ``peer`` is gone, silent, or makes no sense; ``weights`` are undefined then.
        """
        if time.monotonic() < self._damaged.get((peer, (layer, expert)), (0, 0.0))[1]:
            raise PeerRestsError("what the peer sent of it was damaged")
        with self._ending(peer):
            return self._fetch(self._connection(peer), weights, (layer, expert), proceed)

    def doubt(self, peer: Address, layer: int, expert: int, proceed: Callable[[int], None]) -> None:
        """What ``peer`` sent of an expert does not fit the digest that it told: tell it, and do not ask for that again
        for a while.

        Raises:
            WireError: ``peer`` cannot be told.
        """
        key = (peer, (layer, expert))
        times = self._damaged.get(key, (0, 0.0))[0]
        rest = min(REST_SECONDS * 2.0**times, MOST_REST_SECONDS)
        self._damaged[key] = times + 1, time.monotonic() + rest
        with self._ending(peer):
            self._ask(self._connection(peer), doubt_of(layer, expert), proceed)

    def close(self) -> None:
        """Nothing is wanted for now."""
        now = time.monotonic()
        self._resting = {peer: until for peer, until in self._resting.items() if until > now}
        self._damaged = {key: (times, until) for key, (times, until) in self._damaged.items() if until > now}
        for peer in tuple(self._connections):
            self._close(peer)

    @contextmanager
    def _ending(self, peer: Address) -> Iterator[None]:
        """Whatever goes wrong inside ends the connection: an answer may be on its way, which the next question must not
        get.
        """
        try:
            yield
        except NotHeldError:
            raise
        except BaseException as error:
            self._close(peer)
            if isinstance(error, WireError):
                self._resting[peer] = time.monotonic() + REST_SECONDS
            raise

    def _fetch(
        self, connection: Connection, weights: ExpertWeights, key: tuple[int, int], proceed: Callable[[int], None]
    ) -> tuple[bytes, bytes]:
        incoming = Incoming(self._form, weights, self._landing)
        to_ask = cuts(self._form)
        asked: deque[tuple[int, FetchRequest]] = deque()
        digest = b""
        try:
            while True:
                for begin, elements in itertools.islice(to_ask, MOST_ASKED - len(asked)):
                    proceed(elements * self._form.dtype.itemsize)
                    request = FetchRequest(*key, begin)
                    asked.append((self._send(connection, request.to_message()), request))
                if not asked:
                    break
                tag, request = asked.popleft()
                said = incoming.take(_answer(connection, tag, proceed), request)
                if digest not in {b"", said}:
                    raise ProtocolError("the peer's copy has become another one meanwhile")
                digest = said
        except NotHeldError:
            # The connection lives on, so nothing may be left in it.
            for tag, _ in asked:
                _answer(connection, tag, proceed)
            raise
        finally:
            # Also where it fails: the slot is filled from elsewhere next.
            self._landing.finish()
        return incoming.digest(), digest

    def _ask(self, connection: Connection, message: Message, proceed: Callable[[int], None]) -> Message:
        return _answer(connection, self._send(connection, message), proceed)

    def _send(self, connection: Connection, message: Message) -> int:
        """Returns the tag that the answer will have."""
        tag = next(self._tags) & 0xFFFFFFFF
        connection.send(encode_frame(message, tag))
        return tag

    def _connection(self, peer: Address) -> Connection:
        if time.monotonic() < self._resting.get(peer, 0.0):
            raise PeerRestsError("the peer has just failed")
        if peer not in self._connections:
            self._connections[peer] = Connection.connect(
                peer,
                self._subject,
                self._name,
                network=self._network,
                node=self._node,
                max_body=MAX_PIECE_BODY,
                timeout=CONNECT_SECONDS,
            )
        return self._connections[peer]

    def _close(self, peer: Address) -> None:
        if (connection := self._connections.pop(peer, None)) is not None:
            connection.close()


def _answer(connection: Connection, tag: int, proceed: Callable[[int], None]) -> Message:
    """To the first question that has none yet."""
    frame = _receive(connection, proceed)
    if frame.tag != tag:
        raise ProtocolError(f"answer {frame.tag} to question {tag}")
    return decode_frame(frame)


def _receive(connection: Connection, proceed: Callable[[int], None]) -> Frame:
    deadline = time.monotonic() + PIECE_SECONDS
    while True:
        connection.flush()
        frame = connection.receive()
        if frame is not None:
            return frame
        if time.monotonic() > deadline:
            raise ConnectionLostError(f"{connection.channel.peer_name} did not answer in {PIECE_SECONDS:g} s")
        connection.poll(_LOOK_SECONDS)
        proceed(0)
