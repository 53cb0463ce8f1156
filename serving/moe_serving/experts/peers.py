"""Experts from other shards, over the sockets by which attention asks them. Used by the loader's thread alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from moe_contract.applications import Network
from moe_serving.checkpoint.reader import ExpertForm, ExpertWeights
from moe_serving.experts.errors import NotHeldError, PeerRestsError
from moe_serving.experts.pieces import MAX_PIECE_BODY, PIECE_BYTES, FetchRequest, take_piece
from moe_serving.wire.blocking import Connection
from moe_serving.wire.endpoint import Address
from moe_serving.wire.errors import ConnectionLostError, ProtocolError, WireError
from moe_serving.wire.frames import Frame
from moe_serving.wire.transport import decode_frame, encode_frame

CONNECT_SECONDS = 2.0
PIECE_SECONDS = 5.0
"""For one piece: it waits behind requests of attention's, but not for so long."""
REST_SECONDS = 5.0
"""A peer that failed is not asked again before: each try may cost as long as a piece may take."""
_LOOK_SECONDS = 0.2
"""Between two looks at whether the piece that is waited for is still wanted."""


class Peers:
    """At most one connection to each.

    Args:
        subject: the model's digest.
        name: of this shard, for the peers' logs.
        node: it runs on.
        form: of the model's experts.
    """

    def __init__(self, subject: str, name: str, node: str, network: Network, form: ExpertForm) -> None:
        self._subject = subject
        self._name = name
        self._node = node
        self._network = network
        self._form = form
        self._connections: dict[Address, Connection] = {}
        self._resting: dict[Address, float] = {}
        self._tags = itertools.count()
        """One for each question, so that no answer is taken for that to another one."""

    def fetch_into(
        self, weights: ExpertWeights, peer: Address, layer: int, expert: int, proceed: Callable[[int], None]
    ) -> bytes:
        """Fill ``weights`` with the expert that ``peer`` holds.

        Args:
            proceed: called with the number of bytes before they are asked for, and with 0 while they are waited for;
                what it raises ends the transfer, and the connection with it: an answer may be on its way.

        Returns:
            The digest that its bytes had when ``peer`` published it.

        Raises:
            NotHeldError: ``peer`` does not hold it.
            PeerRestsError, WireError: ``peer`` is gone, silent, or makes no sense; ``weights`` are undefined then.
        """
        try:
            return self._fetch(self._connection(peer), weights, (layer, expert), proceed)
        except NotHeldError:
            raise
        except BaseException as error:
            # An answer may still be on its way, which the next question must not get.
            self._close(peer)
            if isinstance(error, WireError):
                self._resting[peer] = time.monotonic() + REST_SECONDS
            raise

    def close(self) -> None:
        """Nothing is wanted for now."""
        for peer in tuple(self._connections):
            self._close(peer)

    def _fetch(
        self, connection: Connection, weights: ExpertWeights, key: tuple[int, int], proceed: Callable[[int], None]
    ) -> bytes:
        begin, digest = 0, b""
        while begin < self._form.elements:
            proceed(min(PIECE_BYTES, (self._form.elements - begin) * self._form.dtype.itemsize))
            tag = next(self._tags) & 0xFFFFFFFF
            asked = FetchRequest(*key, begin)
            connection.send(encode_frame(asked.to_message(), tag))
            frame = _receive(connection, proceed)
            if frame.tag != tag:
                raise ProtocolError(f"answer {frame.tag} to question {tag}")
            count, said = take_piece(decode_frame(frame), weights, self._form, asked)
            if digest not in {b"", said}:
                raise ProtocolError("the peer's copy has become another one meanwhile")
            begin, digest = begin + count, said
        return digest

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
