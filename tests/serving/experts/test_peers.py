"""An expert from another shard over real sockets: bit for bit, in pieces, and what a bad peer is good for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from moe_serving.checkpoint.reader import ExpertForm
from moe_serving.experts import peers as peers_module
from moe_serving.experts import pieces
from moe_serving.experts.errors import DamagedExpertError, NotHeldError, PeerRestsError, TransferAbandonedError
from moe_serving.experts.peers import Peers
from moe_serving.experts.pieces import MAX_PIECE_BODY, FetchRequest, answer_doubt, answer_fetch, doubt_of
from moe_serving.experts.pool import ExpertPool
from moe_serving.experts.server import ExpertServer, Handler
from moe_serving.wire.endpoint import Address, Endpoint
from moe_serving.wire.errors import ConnectionLostError, ProtocolError, WireError
from moe_serving.wire.kinds import ExpertKind
from moe_serving.wire.transport import Message

WAIT_S = 60.0
FORM = ExpertForm(hidden=96, intermediate=1040, dtype=torch.float32, activation="silu")
"""``gate_up`` has 798,720 bytes, a whole piece and a part of one, ``down`` 399,360, a part of one."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No peer is taken for silent because the machine stands still."""
    monkeypatch.setattr(peers_module, "CONNECT_SECONDS", WAIT_S)
    monkeypatch.setattr(peers_module, "PIECE_SECONDS", WAIT_S)


def pool(form: ExpertForm = FORM) -> ExpertPool:
    made = ExpertPool(2, 4, form, torch.device("cpu"))
    made.capacity = 4
    return made


def filled(form: ExpertForm = FORM, expert: int = 3) -> ExpertPool:
    """Holds one expert of layer 1 whose bits are all random: NaNs must travel too."""
    made = pool(form)
    with made.reserve(1, expert) as slot:
        for tensor in (slot.weights.gate_up, slot.weights.down):
            bits = tensor.view(torch.int16)
            bits.copy_(torch.randint(-(1 << 15), 1 << 15, bits.shape, dtype=torch.int16))
        slot.publish()
    return made


@contextmanager
def serving(handler: Handler, network: str = "unix") -> Iterator[tuple[Address, ExpertServer]]:
    endpoint = Endpoint.open("node", "127.0.0.1", network)  # type: ignore[arg-type]  # a parameter's text
    server = ExpertServer(endpoint, "digest", handler, MAX_PIECE_BODY, {ExpertKind.FETCH})
    server.start()
    try:
        yield endpoint.address, server
    finally:
        server.stop(WAIT_S)


def peers(form: ExpertForm = FORM) -> Peers:
    return Peers("digest", "shard 9", "node", "auto", form, torch.device("cpu"))


def proceed(size: int) -> None:
    pass


def fetch(target: ExpertPool, source: Peers, peer: Address, expert: int = 3) -> None:
    with target.reserve(1, expert) as slot:
        slot.publish(*source.fetch_into(slot.weights, peer, 1, expert, proceed))


@pytest.mark.parametrize("network", ["unix", "tcp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_comes_bit_for_bit(dtype: torch.dtype, network: str) -> None:
    form = ExpertForm(FORM.hidden, FORM.intermediate, dtype, "silu")
    theirs, ours, source = filled(form), pool(form), peers(form)
    with serving(lambda message: answer_fetch(theirs, message), network) as (peer, server):
        fetch(ours, source, peer)
        with theirs.pinned(1, [3]) as sent, ours.pinned(1, [3]) as got:
            assert got[3].digest == sent[3].digest
            for name in ("gate_up", "down"):
                one, other = getattr(sent[3].weights, name), getattr(got[3].weights, name)
                assert torch.equal(one.view(torch.int16), other.view(torch.int16))
        assert server.counts == {"background": len([*pieces.cuts(form)])}
        source.close()


@pytest.mark.parametrize(
    ("hidden", "intermediate", "sizes"),
    [
        (512, 64, [65536, 32768]),
        (512, 128, [131072, 65536]),
        (512, 129, [131072, 1024, 66048]),
        (512, 256, [131072, 131072, 131072]),
        (7, 3, [42, 21]),
        (1, 1, [2, 1]),
    ],
)
def test_an_expert_may_fill_whole_pieces_and_leave_any_rest(hidden: int, intermediate: int, sizes: list[int]) -> None:
    form = ExpertForm(hidden, intermediate, torch.float32, "silu")
    assert [elements for _, elements in pieces.cuts(form)] == sizes
    theirs, ours, source = filled(form), pool(form), peers(form)
    with serving(lambda message: answer_fetch(theirs, message)) as (peer, _):
        fetch(ours, source, peer)
        source.close()
    with theirs.pinned(1, [3]) as sent, ours.pinned(1, [3]) as got:
        assert torch.equal(sent[3].weights.down.view(torch.int32), got[3].weights.down.view(torch.int32))


def test_what_it_does_not_hold_it_says_and_the_connection_lives_on() -> None:
    theirs, ours, source = filled(), pool(), peers()
    with serving(lambda message: answer_fetch(theirs, message)) as (peer, _):
        with pytest.raises(NotHeldError):
            fetch(ours, source, peer, expert=2)
        fetch(ours, source, peer)
        source.close()
    assert ours.held().sum() == 1


def test_a_damaged_copy_is_never_held() -> None:
    theirs, ours, source = filled(), pool(), peers()
    with theirs.pinned(1, [3]) as slots:
        slots[3].weights.down.view(torch.int16)[5, 5] ^= 1
    with serving(lambda message: answer_fetch(theirs, message)) as (peer, _):
        with pytest.raises(DamagedExpertError, match="expert 3 of layer 1 is damaged"):
            fetch(ours, source, peer)
        source.close()
    assert not ours.held().any()


def test_who_sends_a_damaged_copy_is_told_and_not_asked_for_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time for twice as long, but for other experts; one that does not mend it is not asked for ever."""
    now = 1000.0
    monkeypatch.setattr(peers_module, "time", SimpleNamespace(monotonic=lambda: now))
    theirs, ours, source = filled(), pool(), peers()
    with theirs.reserve(1, 2) as slot:
        slot.publish()
    with theirs.pinned(1, [3]) as slots:
        slots[3].weights.down.view(torch.int16)[5, 5] ^= 1
    doubted: list[tuple[int, int]] = []
    fetched = 0

    def answer(message: Message) -> Message:
        nonlocal fetched
        if message.kind == ExpertKind.DOUBT:
            return answer_doubt(doubted.append, message)
        fetched += 1
        return answer_fetch(theirs, message)

    with serving(answer) as (peer, _):
        for times in range(10):
            with pytest.raises(DamagedExpertError):
                fetch(ours, source, peer)
            source.doubt(peer, 1, 3, proceed)
            assert doubted == [(1, 3)] * (times + 1)
            fetched = 0
            now += min(peers_module.REST_SECONDS * 2**times, peers_module.MOST_REST_SECONDS) - 1.0
            with pytest.raises(PeerRestsError):
                fetch(ours, source, peer)
            assert fetched == 0
            now += 2.0
        fetch(ours, source, peer, expert=2)
        source.close()


def freed_meanwhile(theirs: ExpertPool) -> Handler:
    """Frees the expert after its first piece."""

    def answer(message: Message) -> Message:
        reply = answer_fetch(theirs, message)
        theirs.free(1, 3)
        return reply

    return answer


def another_meanwhile(theirs: ExpertPool) -> Handler:
    """The second piece is of another copy."""
    other = filled()

    def answer(message: Message) -> Message:
        return answer_fetch(other if FetchRequest.from_message(message).begin else theirs, message)

    return answer


def dying(theirs: ExpertPool) -> Handler:
    """Fails at the second piece, so that the server drops the connection."""

    def answer(message: Message) -> Message:
        if FetchRequest.from_message(message).begin:
            raise ZeroDivisionError
        return answer_fetch(theirs, message)

    return answer


def short(theirs: ExpertPool) -> Handler:
    """Sends less than was asked for."""

    def answer(message: Message) -> Message:
        reply = answer_fetch(theirs, message)
        return Message(reply.kind, reply.meta, (reply.tensors[0][:-1],))

    return answer


def nonsense(theirs: ExpertPool) -> Handler:
    return lambda message: Message(ExpertKind.PARTIAL_SUMS, b"", (torch.zeros(1),))


def in_another_dtype(theirs: ExpertPool) -> Handler:
    half = filled(ExpertForm(FORM.hidden, FORM.intermediate, torch.float16, "silu"))
    return lambda message: answer_fetch(half, message)


def of_another_form(theirs: ExpertPool) -> Handler:
    wide = filled(ExpertForm(FORM.intermediate, FORM.hidden, FORM.dtype, "silu"))
    return lambda message: answer_fetch(wide, message)


def silent(theirs: ExpertPool) -> Handler:
    def answer(message: Message) -> Message:
        time.sleep(0.5)
        return answer_fetch(theirs, message)

    return answer


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (freed_meanwhile, NotHeldError, "does not hold it"),
        (another_meanwhile, ProtocolError, "has become another one meanwhile"),
        (dying, ConnectionLostError, "closed the connection|reset by peer"),  # questions are left that it did not read
        (silent, ConnectionLostError, "did not answer in 0.2 s"),
        (short, ProtocolError, "expected"),
        (nonsense, ProtocolError, "expected a PIECE"),
        (in_another_dtype, ProtocolError, "float16"),
        (of_another_form, ProtocolError, "the peer's experts are"),
    ],
)
def test_a_peer_that_fails_leaves_nothing_behind(
    make: Callable[[ExpertPool], Handler], error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "REST_SECONDS", WAIT_S)
    if make is silent:
        monkeypatch.setattr(peers_module, "PIECE_SECONDS", 0.2)
    monkeypatch.setattr(peers_module, "_LOOK_SECONDS", 0.05)
    theirs, ours, source = filled(), pool(), peers()
    ours.capacity = 1
    with serving(make(theirs)) as (peer, _):
        with pytest.raises(error, match=text):
            fetch(ours, source, peer)
        if issubclass(error, WireError):
            with pytest.raises(PeerRestsError):
                fetch(ours, source, peer)
        source.close()
    assert not ours.held().any()
    with ours.reserve(0, 0) as slot:
        slot.publish()


def test_a_peer_that_is_not_there_rests_and_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours, source = filled(), pool(), peers()
    monkeypatch.setattr(peers_module, "REST_SECONDS", 0.0)
    with serving(lambda message: answer_fetch(theirs, message)) as (peer, server):
        server.stop(WAIT_S)
        with pytest.raises(ConnectionLostError):
            fetch(ours, source, peer)
        with pytest.raises(ConnectionLostError):
            fetch(ours, source, peer)


def test_a_transfer_that_is_wanted_no_more_ends_while_it_waits() -> None:
    begun, source = threading.Event(), peers()

    def answer(message: Message) -> Message:
        begun.set()
        time.sleep(1.0)
        return message

    def give_up(size: int) -> None:
        if begun.is_set():
            raise TransferAbandonedError

    with serving(answer) as (peer, _), pool().reserve(1, 3) as slot:
        with pytest.raises(TransferAbandonedError):
            source.fetch_into(slot.weights, peer, 1, 3, give_up)
        source.close()


def test_the_answer_to_a_transfer_that_was_given_up_is_not_taken_for_another_expert() -> None:
    """Experts of one piece, which nothing but its own name tells from another."""
    form = ExpertForm(hidden=8, intermediate=4, dtype=torch.float32, activation="silu")
    theirs, ours, source = filled(form), pool(form), peers(form)
    with theirs.reserve(1, 2) as slot:
        slot.weights.gate_up.fill_(1.0)
        slot.weights.down.fill_(2.0)
        slot.publish()
    begun, goes_on = threading.Event(), threading.Event()

    def answer(message: Message) -> Message:
        begun.set()
        assert goes_on.wait(WAIT_S)
        return answer_fetch(theirs, message)

    def give_up(size: int) -> None:
        if begun.wait(0.0 if size else WAIT_S) and not size:
            raise TransferAbandonedError

    with serving(answer) as (peer, _):
        with ours.reserve(1, 3) as slot, pytest.raises(TransferAbandonedError):
            source.fetch_into(slot.weights, peer, 1, 3, give_up)
        goes_on.set()
        fetch(ours, source, peer, expert=2)
        source.close()
    with theirs.pinned(1, [2]) as sent, ours.pinned(1, [2]) as got:
        assert torch.equal(got[2].weights.gate_up, sent[2].weights.gate_up)
        assert torch.equal(got[2].weights.down, sent[2].weights.down)


def test_a_piece_of_another_expert_is_refused() -> None:
    theirs, ours, source = filled(), pool(), peers()
    with theirs.reserve(1, 2) as slot:
        slot.weights.gate_up.zero_()
        slot.weights.down.zero_()
        slot.publish()

    def another(message: Message) -> Message:
        asked = FetchRequest.from_message(message)
        return answer_fetch(theirs, FetchRequest(asked.layer, 2, asked.begin).to_message())

    with serving(another) as (peer, _):
        with pytest.raises(ProtocolError, match="a piece of another expert"):
            fetch(ours, source, peer)
        source.close()
    assert not ours.held().any()


@pytest.mark.parametrize(
    "message",
    [
        FetchRequest(1, 3, FORM.elements).to_message(),
        FetchRequest(1, 3, (1 << 64) - 1).to_message(),
        Message(ExpertKind.FETCH, b"short", ()),
        Message(ExpertKind.FETCH, FetchRequest(1, 3, 0).to_message().meta, (torch.zeros(1),)),
    ],
)
def test_requests_that_make_no_sense(message: Message) -> None:
    with pytest.raises(ProtocolError):
        answer_fetch(filled(), message)


@pytest.mark.parametrize(
    "message",
    [
        FetchRequest(1, 3, 0).to_message(),
        Message(ExpertKind.DOUBT, b"short", ()),
        Message(ExpertKind.DOUBT, doubt_of(1, 3).meta, (torch.zeros(1),)),
        Message(ExpertKind.DOUBT, doubt_of(1, 3).meta, (), 1),
    ],
)
def test_doubts_that_make_no_sense(message: Message) -> None:
    with pytest.raises(ProtocolError):
        answer_doubt(lambda key: pytest.fail(f"{key} is looked at"), message)
