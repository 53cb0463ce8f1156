"""The shard's socket server: one thread, many connections, one request computed at a time.

A selector loop around ``wire.channel``. Attention comes first: requests in the background are answered when nobody else
wants anything, or once they have waited for a while. What a peer does wrong ends that peer's connection only. A peer
that does not read its answers is not read from either, so memory per connection is bounded by one request and one
answer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Container

import torch

from moe_serving.threads import SupervisedThread
from moe_serving.wire.blocking import Connection
from moe_serving.wire.channel import Channel
from moe_serving.wire.endpoint import Endpoint
from moe_serving.wire.errors import ConnectionLostError, WireError
from moe_serving.wire.frames import Frame
from moe_serving.wire.transport import Message, decode_frame, encode_frame

HANDSHAKE_SECONDS = 5.0
"""A peer that has not proved the key by then is dropped: nobody may occupy descriptors without it."""
PUT_OFF_SECONDS = 0.02
"""So long a request in the background may wait for a turn in which nobody else wants anything. Each takes well below a
millisecond, so under full load they cost the others a few hundredths."""
SWEEP_SECONDS = 1.0
"""How often the loop looks for such peers when nothing else happens, and how soon it accepts anew after a failure."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

logger = logging.getLogger(__name__)

Handler = Callable[[Message], Message]
"""Answers one request.

Raises:
    WireError: the request makes no sense; its connection is closed.
"""


class ExpertServer:
    """Accepts peers on an endpoint and answers their requests by ``handler``.

    Args:
        endpoint: owned from now on.
        subject: what peers must be about: the model's digest.
        max_body: bytes of the largest request.
        background: kinds of requests that give way to all others.
        features: told to peers; see ``wire.handshake``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        subject: str,
        handler: Handler,
        max_body: int,
        background: Container[int] = (),
        features: Collection[str] = (),
    ) -> None:
        self.counts: Counter[str] = Counter()
        """``requests`` answered, those in the ``background``, ``rejected`` peers (wrong key, malformed frames),
        ``failed`` computations."""
        self._worked = (0, 0)
        self._endpoint = endpoint
        self._subject = subject
        self._handler = handler
        self._max_body = max_body
        self._background = background
        self._features = features
        # Not in the selector while they wait: what else such a peer sends is left where it is.
        self._put_off: deque[tuple[float, _Peer, Frame]] = deque()
        self._selector = selectors.DefaultSelector()
        self._peers: set[_Peer] = set()
        self._resting: list[socket.socket] = []
        self._next_sweep = 0.0
        self._waker, self._woken = socket.socketpair()
        self._stopping = threading.Event()
        self._thread = SupervisedThread("expert-server", self._run)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def failure(self) -> str | None:
        """Why the thread has ended, where it was not meant to."""
        return self._thread.failure

    @property
    def worked(self) -> dict[str, int]:
        """``busy_us``: microseconds in which it answered somebody, of ``served_us`` since it started. What is
        answered in the background is not of them: it fills the time in which nobody else asks."""
        busy, all_of_it = self._worked
        return {"busy_us": busy // 1000, "served_us": all_of_it // 1000}

    @property
    def connections(self) -> int:
        """Peers connected now, those in their handshake included."""
        return len(self._peers)

    def stop(self, timeout: float) -> None:
        """Take no more requests, finish the one in work and the answers on their way, then close all connections."""
        self._stopping.set()
        with contextlib.suppress(OSError):  # the thread saw it by itself, and has closed all
            self._waker.send(b"x")
        self._thread.join(timeout)

    def _run(self) -> None:
        # One thread of arithmetic per shard: shards share their node's cores with each other and with attention.
        torch.set_num_threads(1)
        for listening in self._endpoint.sockets:
            self._selector.register(listening, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        try:
            with torch.inference_mode():
                while not self._stopping.is_set():
                    self._turn()
            self._deliver_answers()
        finally:
            self._close()

    def _turn(self) -> None:
        begin = time.perf_counter_ns()
        ready = self._selector.select(0.0 if self._put_off else SWEEP_SECONDS)
        worked = 0
        for key, _ in ready:
            if isinstance(key.data, _Peer):
                worked += self._attend(key.data)
            elif key.fileobj is not self._woken:
                self._accept(key.fileobj)  # type: ignore[arg-type]  # registered above: a listening socket
        if self._put_off and not (ready and time.monotonic() < self._put_off[0][0] + PUT_OFF_SECONDS):
            _, peer, frame = self._put_off.popleft()
            self._selector.register(peer.connection, peer.events, peer)
            self._attend(peer, frame)
        self._sweep()
        busy, all_of_it = self._worked
        self._worked = busy + worked, all_of_it + time.perf_counter_ns() - begin

    def _attend(self, peer: _Peer, frame: Frame | None = None) -> int:
        """``_serve`` it; nanoseconds that were for what does not give way."""
        begin = time.perf_counter_ns()
        self._serve(peer, frame)
        return 0 if peer.in_background else time.perf_counter_ns() - begin

    def _accept(self, listening: socket.socket) -> None:
        try:
            connected, _ = listening.accept()
        except OSError as error:  # the peer is gone again, or descriptors have run out: the others live on
            logger.warning("cannot accept a connection: %s", error)
            if error.errno in _EXHAUSTED:
                # It stays ready to be accepted: without a pause the loop would spin.
                self._selector.unregister(listening)
                self._resting.append(listening)
            return
        channel = Channel.listener(self._endpoint.address.key, self._subject, self._max_body, self._features)
        try:
            peer = _Peer(Connection(connected, channel))
            self._selector.register(peer.connection, selectors.EVENT_READ, peer)
        except OSError as error:
            logger.warning("cannot serve a connection: %s", error)
            connected.close()
            return
        self._peers.add(peer)

    def _serve(self, peer: _Peer, frame: Frame | None = None) -> None:
        """Move what can be moved for one peer, and answer at most one request, so that peers take turns.

        Args:
            frame: a request of this peer's that was put off; what is received is put off itself, or answered at once.
        """
        connection = peer.connection
        try:
            connection.flush()
            if frame is None and not connection.has_unsent:
                frame = connection.receive()
                if frame is not None:
                    peer.in_background = frame.kind in self._background
                    if peer.in_background:
                        self._selector.unregister(connection)
                        self._put_off.append((time.monotonic(), peer, frame))
                        return
            if frame is not None:
                self._answer(connection, frame)
            connection.flush()
            wanted = selectors.EVENT_WRITE if connection.has_unsent else selectors.EVENT_READ
            if wanted != peer.events:
                peer.events = wanted
                self._selector.modify(connection, wanted, peer)
        except ConnectionLostError as error:
            logger.debug("%s", error)
            self._drop(peer)
        except WireError as error:
            self.counts["rejected"] += 1
            logger.warning("closing the connection of %s: %s", connection.channel.peer_name, error)
            self._send_refusal(connection)
            self._drop(peer)
        except Exception:  # torch's own, out of memory, a fault of ours: the peer asks elsewhere, the others live on
            self.counts["failed"] += 1
            logger.exception("cannot answer %s", connection.channel.peer_name)
            self._drop(peer)

    def _answer(self, connection: Connection, frame: Frame) -> None:
        reply = self._handler(decode_frame(frame))
        self.counts["background" if frame.kind in self._background else "requests"] += 1
        connection.send(encode_frame(reply, frame.tag))

    def _send_refusal(self, connection: Connection) -> None:
        try:
            connection.flush()
        except ConnectionLostError as error:
            logger.debug("%s", error)

    def _sweep(self) -> None:
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_SECONDS
        while self._resting:
            self._selector.register(self._resting.pop(), selectors.EVENT_READ)
        late = [peer for peer in self._peers if not peer.connection.channel.established and now > peer.deadline]
        for peer in late:
            self.counts["rejected"] += 1
            logger.warning("a peer did not finish its handshake within %g s", HANDSHAKE_SECONDS)
            self._drop(peer)

    def _deliver_answers(self) -> None:
        for peer in self._peers:
            try:
                while peer.connection.has_unsent:
                    peer.connection.wait(time.monotonic() + SWEEP_SECONDS)
                    peer.connection.flush()
            except WireError as error:
                logger.debug("%s", error)

    def _drop(self, peer: _Peer) -> None:
        self._peers.discard(peer)
        self._selector.unregister(peer.connection)
        peer.connection.close()

    def _close(self) -> None:
        for peer in self._peers:
            peer.connection.close()
        self._endpoint.close()
        self._selector.close()
        self._waker.close()
        self._woken.close()


class _Peer:
    """A connection and what the loop waits for on it; ``in_background``: its last request was of those that give way,
    whose answer may still be on its way."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.in_background = False
        self.events = selectors.EVENT_READ
        self.deadline = time.monotonic() + HANDSHAKE_SECONDS
