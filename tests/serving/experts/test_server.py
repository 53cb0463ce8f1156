"""The server's loop where something goes wrong that nobody foresaw: one peer is lost, the others live on."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import waiting

from moe_serving.experts import server as server_module
from moe_serving.experts.server import ExpertServer
from moe_serving.wire.endpoint import Endpoint
from moe_serving.wire.errors import ConnectionLostError
from moe_serving.wire.transport import Message, SocketFabric, SocketTransport

WAIT_S = 60.0
FAULTY = 0x7F


def handle(message: Message) -> Message:
    if message.kind == FAULTY:
        raise TypeError("a fault of ours")
    return message


class Exhausted(socket.socket):
    """Has no descriptors left while ``refusals`` lasts."""

    refusals = 0
    accepts = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.accepts += 1
        if self.accepts <= self.refusals:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@pytest.fixture
def endpoint() -> Endpoint:
    endpoint = Endpoint.open("node", "127.0.0.1", "unix")
    (plain,) = endpoint.sockets
    return replace(endpoint, sockets=(Exhausted(fileno=plain.detach()),))


@pytest.fixture
def server(endpoint: Endpoint) -> Iterator[ExpertServer]:
    server = ExpertServer(endpoint, "subject", handle, max_body=1 << 20)
    server.start()
    yield server
    server.stop(WAIT_S)
    assert not server.alive


def connect(endpoint: Endpoint) -> SocketTransport:
    return SocketFabric("subject", "test", "node", "unix", 1 << 20).connect(endpoint.address, WAIT_S)


def ask(transport: SocketTransport, kind: int) -> Message:
    completion = transport.submit(Message(kind, b"", (torch.zeros(1),)))
    SocketFabric("subject", "test", "node", "unix", 1 << 20).wait([completion], WAIT_S)
    return completion.result()


def test_a_fault_costs_one_peer(server: ExpertServer, endpoint: Endpoint) -> None:
    good, unlucky = connect(endpoint), connect(endpoint)
    with pytest.raises(ConnectionLostError):
        ask(unlucky, FAULTY)
    assert ask(good, 1).kind == 1
    assert server.alive
    assert server.counts == {"failed": 1, "requests": 1}
    good.close()
    unlucky.close()


def test_without_descriptors_it_rests_instead_of_spinning(
    server: ExpertServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "SWEEP_SECONDS", 0.1)
    good = connect(endpoint)
    (listening,) = endpoint.sockets
    assert isinstance(listening, Exhausted)
    before = listening.accepts
    listening.refusals = before + 3
    begun = time.monotonic()
    late = connect(endpoint)
    assert time.monotonic() - begun > 0.15
    assert listening.accepts == before + 4
    assert ask(late, 1).kind == ask(good, 1).kind == 1
    good.close()
    late.close()


def test_it_may_end_before_it_is_told_twice(endpoint: Endpoint) -> None:
    """As where its thread, which looks about once a second, sees the first word before the second is said."""
    server = ExpertServer(endpoint, "subject", handle, max_body=1 << 20)
    server.start()
    server.stop(WAIT_S)
    assert not server.alive
    server.stop(WAIT_S)


BACKGROUND = 0x70


@pytest.mark.parametrize(("patience", "expected"), [(WAIT_S, [1] * 20 + [BACKGROUND]), (0.0, [1, 1, BACKGROUND])])
def test_requests_in_the_background_give_way_but_not_for_ever(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, patience: float, expected: list[int]
) -> None:
    """Two peers have ten requests each under way when the one in the background comes first."""
    monkeypatch.setattr(server_module, "PUT_OFF_SECONDS", patience)
    begun, go, order = threading.Event(), threading.Event(), []

    def in_turn(message: Message) -> Message:
        if message.kind == FAULTY:
            begun.set()
            assert go.wait(WAIT_S)
        else:
            order.append(message.kind)
        return message

    server = ExpertServer(endpoint, "subject", in_turn, 1 << 20, {BACKGROUND})
    server.start()
    peers = [connect(endpoint) for _ in range(4)]
    fabric = SocketFabric("subject", "test", "node", "unix", 1 << 20)
    ours = [peers[0].submit(Message(FAULTY, b"", ()))]
    assert begun.wait(WAIT_S)
    ours.append(peers[1].submit(Message(BACKGROUND, b"", ())))
    ours += [peer.submit(Message(1, b"", ())) for _ in range(10) for peer in peers[2:]]
    go.set()
    for completion in (ours[0], ours[1], *ours[-2:]):
        while not completion.done:
            fabric.wait([completion], WAIT_S)
    assert order[: len(expected)] == expected
    assert sorted(order) == [1] * 20 + [BACKGROUND]
    assert server.counts == {"requests": 21, "background": 1}
    for peer in peers:
        peer.close()
    server.stop(WAIT_S)


def test_time_in_which_somebody_is_answered_is_told_apart(endpoint: Endpoint) -> None:
    def slow(message: Message) -> Message:
        time.sleep(0.2)
        return message

    server = ExpertServer(endpoint, "subject", slow, 1 << 20)
    server.start()
    peer = connect(endpoint)
    for _ in range(2):
        assert ask(peer, 1).kind == 1
    waiting.wait_until(lambda: server.worked["busy_us"] >= 400_000, "the time of two answers", WAIT_S)
    before = server.worked
    idle = before["served_us"] - before["busy_us"] + 200_000
    waiting.wait_until(lambda: server.worked["served_us"] - server.worked["busy_us"] >= idle, "idle time", WAIT_S)
    # Nobody asks: it is woken now and then to look at its peers, which takes next to nothing.
    assert server.worked["busy_us"] - before["busy_us"] < 100_000
    peer.close()
    server.stop(WAIT_S)


def test_what_is_answered_in_the_background_makes_no_shard_busy(endpoint: Endpoint) -> None:
    """Copies travel where shards are added: that must not look like work for which still more are wanted."""

    def slow(message: Message) -> Message:
        time.sleep(0.1)
        return message

    server = ExpertServer(endpoint, "subject", slow, 1 << 20, {BACKGROUND})
    server.start()
    attention, shard = connect(endpoint), connect(endpoint)
    assert ask(attention, 1).kind == 1
    waiting.wait_until(lambda: server.worked["busy_us"] >= 100_000, "the time of an answer", WAIT_S)
    before = server.worked
    for _ in range(5):
        assert ask(shard, BACKGROUND).kind == BACKGROUND
    waiting.wait_until(lambda: server.worked["served_us"] >= before["served_us"] + 500_000, "five answers", WAIT_S)
    assert server.worked["busy_us"] - before["busy_us"] < 100_000
    attention.close()
    shard.close()
    server.stop(WAIT_S)


def test_a_peer_that_goes_while_its_request_is_put_off_costs_nobody(endpoint: Endpoint) -> None:
    begun, go = threading.Event(), threading.Event()

    def in_turn(message: Message) -> Message:
        if message.kind == FAULTY:
            begun.set()
            assert go.wait(WAIT_S)
        return message

    server = ExpertServer(endpoint, "subject", in_turn, 1 << 20, {BACKGROUND})
    server.start()
    busy, leaving = connect(endpoint), connect(endpoint)
    answer = busy.submit(Message(FAULTY, b"", ()))
    assert begun.wait(WAIT_S)
    leaving.submit(Message(BACKGROUND, b"", ()))
    leaving.submit(Message(BACKGROUND, b"", ()))
    leaving.close()
    go.set()
    SocketFabric("subject", "test", "node", "unix", 1 << 20).wait([answer], WAIT_S)
    assert answer.done
    assert ask(busy, 1).kind == 1
    waiting.wait_until(lambda: server.connections == 1, "the peer to be dropped", WAIT_S)
    busy.close()
    server.stop(WAIT_S)
