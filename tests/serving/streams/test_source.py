"""Tokens over real sockets from replicas that answer, stumble and die: the answer goes on, whole, nothing twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from moe_serving.api.errors import GenerationError, InvalidRequestError, NotReadyError, OverloadedError, RemovedError
from moe_serving.engine.request import GenerationRequest, Sampling, TokenEvent
from moe_serving.streams import receiver as receiver_module
from moe_serving.streams import sender as sender_module
from moe_serving.streams import source as source_module
from moe_serving.streams.errors import ReplicaLostError
from moe_serving.streams.messages import StreamEvent
from moe_serving.streams.receiver import StreamReceiver
from moe_serving.streams.sender import SenderPool, StreamSender
from moe_serving.streams.source import ReplicatedSource
from moe_serving.wire.endpoint import Address, Endpoint
from moe_serving.wire.kinds import StreamKind

NODE = "node"


class Replicas:
    """Answers requests with the tokens 0, 1, 2 … of their positions; ``fates`` tells what becomes of each attempt.

    Attributes:
        fates: per attempt a function that is called before each token and may raise; the last one stays.
    """

    def __init__(self) -> None:
        self.well = True
        self.pool = SenderPool("replica", NODE, "auto", lambda: self.well)
        self.address: Address | None = None
        self.fates: list[Callable[[int], object]] = [lambda position: None]
        self.asked: list[GenerationRequest] = []
        self.cancelled: list[str] = []
        self.cancelling = asyncio.Event()
        self.failovers = 0
        self.lost: list[str] = []

    async def answer(self, request: GenerationRequest, stream: int) -> None:
        self.asked.append(request)
        step = self.fates.pop(0) if len(self.fates) > 1 else self.fates[0]
        sender = await self.pool.get(self.address)
        sender.push(StreamEvent(stream))
        if step is full:
            full(0)  # before there is a place in the queue to tell of
        sender.push(StreamEvent(stream))
        try:
            for position in range(len(request.emitted_ids), request.sampling.max_tokens):
                outcome = step(position)
                if asyncio.iscoroutine(outcome):
                    await outcome
                last = position + 1 == request.sampling.max_tokens
                sender.push(StreamEvent(stream, (position,), "length" if last else None))
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(request.request_id)
            self.cancelling.set()
            raise
        except ReplicaLostError:
            await asyncio.sleep(0.02)  # what was sent before a death arrives before Ray tells of it
            raise

    async def sender(self) -> StreamSender:
        return await self.pool.get(self.address)

    def on_failover(self) -> None:
        self.failovers += 1


@pytest.fixture(params=["unix", "tcp"])
async def receiver(request: pytest.FixtureRequest) -> AsyncIterator[StreamReceiver]:
    receiver = StreamReceiver()
    receiver.address = await receiver.start(NODE, "127.0.0.1", request.param)
    yield receiver
    await receiver.close()


@pytest.fixture
async def replicas(receiver: StreamReceiver) -> AsyncIterator[Replicas]:
    replicas = Replicas()
    replicas.address = receiver.address
    yield replicas
    await replicas.pool.close()


@pytest.fixture
def source(receiver: StreamReceiver, replicas: Replicas) -> ReplicatedSource:
    return ReplicatedSource(receiver, replicas.answer, replicas.on_failover, replicas.lost.append)


def ask(name: str, tokens: int) -> GenerationRequest:
    return GenerationRequest(name, (1, 2, 3), Sampling(max_tokens=tokens))


async def collect(source: ReplicatedSource, request: GenerationRequest) -> list[TokenEvent]:
    async with asyncio.timeout(20):
        return [event async for event in source.stream(request)]


def tokens(events: list[TokenEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def lost_at(position: int) -> Callable[[int], None]:
    def step(now: int) -> None:
        if now == position:
            raise ReplicaLostError("killed")

    return step


async def test_many_streams_share_one_connection(source, replicas) -> None:
    answers = await asyncio.gather(*(collect(source, ask(f"r{i}", 10 + i)) for i in range(20)))
    assert [tokens(events) for events in answers] == [list(range(10 + i)) for i in range(20)]
    assert all(events[-1].finish_reason == "length" for events in answers)
    assert len(replicas.pool._senders) == 1
    assert replicas.failovers == 0


@pytest.mark.parametrize("position", [0, 1, 7, 9])
async def test_a_lost_replica_is_followed_by_another(source, replicas, position) -> None:
    replicas.fates = [lost_at(position), lambda now: None]
    events = await collect(source, ask("r", 10))
    assert tokens(events) == list(range(10))
    assert replicas.failovers == 1
    first, second = replicas.asked
    assert second.emitted_ids == tuple(range(len(second.emitted_ids)))
    assert (first.prompt_ids, first.sampling) == (second.prompt_ids, second.sampling)
    assert first.request_id != second.request_id


async def test_losses_may_follow_each_other(source, replicas) -> None:
    replicas.fates = [lost_at(3), lost_at(3), lost_at(5), lambda now: None]
    assert tokens(await collect(source, ask("r", 10))) == list(range(10))
    assert replicas.failovers == 3


async def test_the_socket_tells_of_a_death_before_the_call_does(source, replicas) -> None:
    async def die_silently() -> None:
        await (await replicas.sender()).close()
        await asyncio.sleep(3600)

    replicas.fates = [lambda now: die_silently() if now == 4 else None, lambda now: None]
    assert tokens(await collect(source, ask("r", 8))) == list(range(8))
    assert replicas.cancelled == ["r.0"]
    assert replicas.lost == ["replica"]


async def test_all_tokens_but_not_the_word_that_they_are_all(source, replicas) -> None:
    async def answer(request: GenerationRequest, stream: int) -> None:
        sender = await replicas.sender()
        sender.push(StreamEvent(stream, (0, 1, 2)))
        await asyncio.sleep(0.05)
        raise ReplicaLostError("killed")

    source._call = answer
    events = await collect(source, ask("r", 3))
    assert tokens(events) == [0, 1, 2]
    assert events[-1].finish_reason == "length"


async def test_nobody_left_is_an_error_after_a_while(source, replicas, monkeypatch) -> None:
    async def turn_away(request: GenerationRequest, stream: int) -> None:
        replicas.asked.append(request)
        raise ReplicaLostError("not ready")

    monkeypatch.setattr(source_module, "RESUME_S", 0.5)
    source._call = turn_away
    with pytest.raises(NotReadyError, match=r"^no attention replica could go on with the answer$"):
        await collect(source, ask("r", 10))
    assert len(replicas.asked) > 2
    assert replicas.failovers == 0, "nobody had begun"


async def test_an_answer_that_kills_replicas_does_not_go_through_all(source, replicas) -> None:
    replicas.fates = [lost_at(2)]
    with pytest.raises(GenerationError, match=r"^3 attention replicas in a row were lost over it$"):
        await collect(source, ask("r", 10))
    assert [len(request.emitted_ids) for request in replicas.asked] == [0, 2, 2]
    assert replicas.failovers == 2


async def test_nobody_takes_the_request(source, monkeypatch, caplog) -> None:
    async def answer(request: GenerationRequest, stream: int) -> None:
        await asyncio.sleep(3600)

    source._call = answer
    monkeypatch.setattr(source_module, "RESUME_S", 0.2)
    with pytest.raises(NotReadyError, match=r"^no attention replica could go on"):
        await collect(source, ask("r", 10))
    assert "none took the request" in caplog.text


async def test_what_no_replica_can_answer_is_not_tried_again(source, replicas) -> None:
    def refuse(now: int) -> None:
        raise InvalidRequestError("too long")

    replicas.fates = [refuse]
    with pytest.raises(InvalidRequestError, match="too long"):
        await collect(source, ask("r", 10))
    assert len(replicas.asked) == 1


def full(now: int) -> None:
    raise OverloadedError("more requests wait", 3)


async def test_a_replica_that_has_enough_to_do_is_followed_by_one_other(source, replicas) -> None:
    replicas.fates = [full, lambda now: None]
    with pytest.raises(OverloadedError):
        await collect(source, ask("r", 4))
    assert len(replicas.asked) == 1, "there is no other"
    source._has_several = lambda: True
    replicas.fates = [full, lambda now: None]
    assert tokens(await collect(source, ask("r", 4))) == [0, 1, 2, 3]
    assert replicas.failovers == 0
    replicas.fates = [full, full, lambda now: None]
    replicas.asked.clear()
    with pytest.raises(OverloadedError):
        await collect(source, ask("r", 4))
    assert [request.resumed for request in replicas.asked] == [False, False]


async def full_elsewhere(now: int) -> None:
    await asyncio.sleep(0.1)  # that there is a place has arrived by then
    full(now)


async def test_who_was_told_of_a_place_is_not_turned_away_by_another_replica(source, replicas) -> None:
    replicas.fates = [full_elsewhere, lambda now: None]
    assert tokens(await collect(source, ask("r", 4))) == [0, 1, 2, 3]
    assert [request.resumed for request in replicas.asked] == [False, True]
    replicas.fates = [full_elsewhere, full]
    with pytest.raises(OverloadedError):
        await collect(source, ask("r", 4))


async def test_that_a_request_has_its_place_in_the_queue_is_told_before_its_first_token(source, replicas) -> None:
    replicas.fates = [lambda now: asyncio.sleep(3600)]
    async with asyncio.timeout(20), aclosing(source.stream(ask("r", 6))) as events:
        assert await anext(events) == TokenEvent("r.0")


@pytest.mark.parametrize("position", [0, 3])
async def test_who_was_taken_on_once_is_not_turned_away_later(source, replicas, position) -> None:
    replicas.fates = [lost_at(position), lambda now: None]
    assert tokens(await collect(source, ask("r", 6))) == list(range(6))
    assert [request.resumed for request in replicas.asked] == [False, True]


@pytest.mark.parametrize("where", ["between tokens", "not taken", "between attempts"])
async def test_an_end_from_above_fails_what_is_under_way_and_what_comes(source, replicas, monkeypatch, where) -> None:
    async def wait(request: GenerationRequest, stream: int) -> None:
        await asyncio.sleep(3600)

    async def turn_away(request: GenerationRequest, stream: int) -> None:
        raise ReplicaLostError("not ready")

    if where == "between tokens":
        replicas.fates = [lambda now: asyncio.sleep(3600) if now == 2 else None]
    else:
        source._call = wait if where == "not taken" else turn_away
    answer = asyncio.create_task(collect(source, ask("r", 10)))
    await asyncio.sleep(0.1)
    source.end(RemovedError())
    with pytest.raises(RemovedError, match="the deployment was removed before the answer was complete"):
        await answer
    with pytest.raises(RemovedError):
        await collect(source, ask("later", 10))
    assert replicas.cancelled == (["r.0"] if where == "between tokens" else [])


async def test_leaving_early_cancels_the_call(source, replicas) -> None:
    replicas.fates = [lambda now: asyncio.sleep(0.001)]
    async with aclosing(source.stream(ask("r", 1_000_000))) as events:
        async for event in events:
            if event.token_ids:
                break
    async with asyncio.timeout(5):
        await replicas.cancelling.wait()
    assert replicas.cancelled == ["r.0"]


async def test_a_reader_that_stops_reading_holds_nobody_up(source) -> None:
    slow = source.stream(ask("slow", 1000))
    first = await anext(slow)
    assert tokens(await collect(source, ask("fast", 2000))) == list(range(2000))
    rest = [event async for event in slow]
    assert tokens([first, *rest]) == list(range(1000))
    assert len(rest) < 100, "what was not read is joined"
    await slow.aclose()


async def test_more_tokens_than_asked_for_end_the_attempt(source, replicas) -> None:
    async def answer(request: GenerationRequest, stream: int) -> None:
        replicas.asked.append(request)
        sender = await replicas.sender()
        count = 9 if len(replicas.asked) == 1 else 4
        sender.push(StreamEvent(stream, tuple(range(count)), "length"))

    source._call = answer
    assert tokens(await collect(source, ask("r", 4))) == [0, 1, 2, 3]
    assert len(replicas.asked) == 2


async def test_a_malformed_frame_closes_that_connection_and_streams_go_on(source, replicas) -> None:
    async def spoil() -> None:
        sender = await replicas.sender()
        await sender._connection.send(StreamKind.TOKENS, b"nonsense")
        await asyncio.sleep(3600)

    replicas.fates = [lambda now: spoil() if now == 2 else None, lambda now: None]
    assert tokens(await collect(source, ask("r", 6))) == list(range(6))
    assert replicas.failovers == 1


def quickly(monkeypatch: pytest.MonkeyPatch, silence: float = 0.8, pulse: float = 0.05) -> None:
    monkeypatch.setattr(receiver_module, "SILENCE_S", silence)
    monkeypatch.setattr(sender_module, "PULSE_S", pulse)


async def test_a_frozen_replica_is_given_up_though_its_connection_stands(source, replicas, monkeypatch) -> None:
    quickly(monkeypatch, pulse=3600)
    replicas.fates = [lambda now: asyncio.sleep(3600) if now == 3 else None, lambda now: None]
    before = asyncio.get_running_loop().time()
    assert tokens(await collect(source, ask("r", 8))) == list(range(8))
    assert asyncio.get_running_loop().time() - before >= 0.8
    assert (replicas.failovers, replicas.lost, replicas.cancelled) == (1, ["replica"], ["r.0"])


async def test_a_replica_that_computes_for_long_is_waited_for(source, replicas, monkeypatch) -> None:
    quickly(monkeypatch)
    replicas.fates = [lambda now: asyncio.sleep(2) if now == 3 else None]
    assert tokens(await collect(source, ask("r", 8))) == list(range(8))
    assert replicas.failovers == 0


async def test_a_replica_whose_engine_is_stuck_gives_itself_up(source, replicas, monkeypatch) -> None:
    async def get_stuck() -> None:
        replicas.well = False
        await asyncio.sleep(3600)

    quickly(monkeypatch, silence=3600)
    replicas.fates = [lambda now: get_stuck() if now == 3 else None, lambda now: None]
    assert tokens(await collect(source, ask("r", 8))) == list(range(8))
    assert (replicas.failovers, replicas.lost) == (1, ["replica"])


async def test_an_api_that_stood_still_blames_no_replica(source, replicas, monkeypatch) -> None:
    """Its clock says that nothing came for long, its sockets are full of what did come."""

    async def stand_still() -> None:
        await asyncio.sleep(0.01)
        time.sleep(1.5)  # noqa: ASYNC251 - the replicas of this test stand still with it, but their pulses are due
        await asyncio.sleep(0.3)

    quickly(monkeypatch)
    replicas.fates = [lambda now: stand_still() if now == 3 else None]
    assert tokens(await collect(source, ask("r", 8))) == list(range(8))
    assert replicas.failovers == 0


async def test_a_call_that_nobody_takes_is_made_anew(source, replicas, monkeypatch) -> None:
    async def freeze_before_the_first(request: GenerationRequest, stream: int) -> None:
        if not replicas.asked:
            replicas.asked.append(request)
            try:
                await asyncio.sleep(3600)
            finally:
                replicas.cancelled.append(request.request_id)
        await replicas.answer(request, stream)

    monkeypatch.setattr(source_module, "_TAKEN_S", 0.2)
    source._call = freeze_before_the_first
    assert tokens(await collect(source, ask("r", 5))) == list(range(5))
    assert (replicas.cancelled, replicas.failovers) == (["r.0"], 0)


async def test_an_api_that_does_not_answer_delays_no_other(receiver):
    """It takes the connection and says nothing: as long as it is waited for, replicas answer the other apis."""
    silent = Endpoint.open(NODE, "127.0.0.1", "tcp")
    pool = SenderPool("replica", NODE, "auto")
    waiting = [asyncio.create_task(pool.get(silent.address)) for _ in range(2)]
    await asyncio.sleep(0.05)
    try:
        async with asyncio.timeout(2):
            sender = await pool.get(receiver.address)
        assert await pool.get(receiver.address) is sender
        assert not any(task.done() for task in waiting)
        waiting[0].cancel()
        await asyncio.sleep(0.01)
        assert not waiting[1].done(), "who gives up takes the attempt from nobody else"
    finally:
        silent.close()
        await pool.close()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_one_replica_alone_speaks_on_a_stream(receiver: StreamReceiver) -> None:
    """One that was frozen when it was asked may begin the answer when it wakes, though another one has it by then."""
    stream = receiver.open("r.0", 4)
    chosen, late = object(), object()
    for connection, token in ((chosen, 1), (late, 1), (chosen, 2), (late, 2)):
        receiver._file(StreamEvent(stream.number, (token,)), connection)  # type: ignore[arg-type]  # only compared
    assert (await stream.next()).token_ids == (1, 2)
