"""The load benchmark: each way in which a request can end is counted as what it is."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from benchmarks import load
from benchmarks.serving.client import Ask, Client, Outcome, Verdict
from benchmarks.serving.figures import figures, percentiles
from benchmarks.serving.saturation import find_saturation
from benchmarks.serving.traffic import ClosedLoop, Mix, Phase, poisson, streams_of
from hypothesis import given
from hypothesis import strategies as st

ASK = Ask((11, 12, 13), 3)
DONE = "data: [DONE]\n\n"


def chunk(ids: list[int], finish: str | None = None) -> str:
    choice = {"index": 0, "text": "x" * len(ids), "token_ids": ids, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


COMPLETE = [chunk([1]), chunk([2, 3]), chunk([], "length"), DONE]


class Server:
    """Answers with what ``script`` says: a status, headers and parts of a body; None cuts the connection."""

    def __init__(self) -> None:
        self.script: tuple[int, dict[str, str], list[str | None]] = (200, {}, list(COMPLETE))
        self.asked: list[dict] = []
        self.busy = asyncio.Event()
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        if len(self.asked) == 6:
            self.busy.set()
        status, headers, parts = self.script
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        for part in parts:
            if part is None:
                request.transport.abort()
                return response
            await response.write(part.encode())
            await asyncio.sleep(0.002)
        await response.write_eof()
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/v1/completions", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url, "model") as client:
        yield client


async def test_a_complete_answer(server, client) -> None:
    outcome = await client.ask(ASK)
    assert (outcome.verdict, outcome.why) == (Verdict.COMPLETE, "")
    assert outcome.token_ids == [1, 2, 3]
    assert outcome.begun < outcome.first < outcome.ended
    assert len(outcome.gaps) == 1, "two chunks with tokens"
    (asked,) = server.asked
    assert (asked["prompt"], asked["max_tokens"], asked["temperature"]) == ([11, 12, 13], 3, 0)


@pytest.mark.parametrize(
    ("status", "headers", "parts", "verdict", "why"),
    [
        (429, {"Retry-After": "3"}, ["{}"], Verdict.REFUSED, "429: {}"),
        (429, {}, ["{}"], Verdict.FAILED, "429: {}"),
        (503, {"Retry-After": "1"}, ["later"], Verdict.FAILED, "503: later"),
        (200, {}, [chunk([1]), 'data: {"error": {"message": "no"}}\n\n', DONE], Verdict.FAILED, "error event: "),
        (200, {}, [chunk([1]), chunk([], "length")], Verdict.FAILED, "the stream ended without [DONE]"),
        (200, {}, [chunk([1]), DONE], Verdict.FAILED, "finish_reason is None"),
        (200, {}, [chunk([1], "error"), DONE], Verdict.FAILED, "finish_reason is 'error'"),
        (200, {}, [chunk([1]), None], Verdict.FAILED, "ClientPayloadError: "),
        (200, {}, ["data: {no json\n\n"], Verdict.FAILED, "JSONDecodeError: "),
        (200, {}, ['data: {"choices": 1}\n\n'], Verdict.FAILED, "TypeError: "),
    ],
)
async def test_everything_else_is_a_failure_but_an_orderly_refusal(
    server, client, status, headers, parts, verdict, why
) -> None:
    server.script = status, headers, parts
    outcome = await client.ask(ASK)
    assert outcome.verdict is verdict
    assert outcome.why.startswith(why)


async def test_nobody_listens() -> None:
    async with Client("http://127.0.0.1:1/v1", "model") as client:
        outcome = await client.ask(ASK)
    assert (outcome.verdict, outcome.first) == (Verdict.FAILED, None)


async def test_a_closed_loop_asks_again_and_lets_the_last_ones_end(server, client) -> None:
    other = Ask((14,), 3)
    async with ClosedLoop(client, streams_of([ASK, other])) as loop:
        await server.busy.wait()
    assert len(loop.outcomes) == len(server.asked) >= 6
    assert {outcome.ask for outcome in loop.outcomes} == {ASK, other}
    assert {outcome.verdict for outcome in loop.outcomes} == {Verdict.COMPLETE}


async def test_a_stream_that_is_refused_comes_again_when_it_may(server, client) -> None:
    server.script = 429, {"Retry-After": "30"}, ["{}"]
    async with ClosedLoop(client, streams_of([ASK, ASK])) as loop:
        await asyncio.sleep(0.3)
    assert [(each.verdict, each.retry_after_s) for each in loop.outcomes] == [(Verdict.REFUSED, 30.0)] * 2


async def test_arrivals_wait_for_nobody(server, client) -> None:
    server.script = 200, {}, [chunk([1])] * 2000  # four seconds
    outcomes = await poisson(client, Mix().endless(), [Phase("a", 50, 0.4), Phase("b", 100, 0.2)], seed=1, drain_s=0)
    assert 20 < len(outcomes) < 60, "40 on average"
    assert {outcome.verdict for outcome in outcomes} == {Verdict.CUT_OFF}


def test_a_mix_is_spread_and_the_same_for_the_same_seed() -> None:
    mix = Mix(prompt=(4, 64), answer=(2, 9), distinct=200, seed=3)
    asks = mix.asks()
    assert asks == mix.asks() != Mix(prompt=(4, 64), answer=(2, 9), distinct=200, seed=4).asks()
    lengths = sorted(len(ask.prompt) for ask in asks)
    assert lengths[0] < 8 and lengths[-1] > 48 and 12 < lengths[100] < 20
    assert {ask.max_tokens for ask in asks} == set(range(2, 10))
    endless = mix.endless()
    assert sorted(next(endless).prompt for _ in asks) == sorted(ask.prompt for ask in asks)


def outcome(begun: float, verdict: Verdict, first: float | None, ended: float, gap: float = 0.1) -> Outcome:
    return Outcome(ASK, begun, verdict, "", first, ended, [gap, gap, gap] if first else [], [1, 2, 3])


def test_figures_of_a_phase() -> None:
    row = figures(
        "phase",
        100.0,
        10.0,
        [
            outcome(99, Verdict.COMPLETE, 101, 102),  # from before, ends in it
            outcome(100, Verdict.COMPLETE, 101, 102),
            outcome(101, Verdict.COMPLETE, 107, 108),  # begun too late
            outcome(102, Verdict.COMPLETE, 103, 104, gap=0.3),  # told too slowly
            outcome(103, Verdict.COMPLETE, 104, 111),  # ends behind it
            outcome(104, Verdict.REFUSED, None, 104),
            outcome(105, Verdict.FAILED, None, 106),
            outcome(110, Verdict.FAILED, None, 110),  # arrived behind it
        ],
        longest_gap_s=0.2,
        is_wrong=lambda ask, tokens: True,
    )
    assert (row.offered, row.complete, row.good, row.failed, row.refused, row.wrong) == (6, 4, 2, 1, 1, 4)
    assert (row.goodput, row.completed_share) == (0.2, 4 / 6)
    assert (row.first.p50, row.first.p99) == (1.0, 6.0)
    assert row.gap.p50 == 0.1
    assert row.reasons == {"": 1}


def test_percentiles() -> None:
    assert math.isnan(percentiles([]).p50)
    hundred = percentiles(range(1, 101))
    assert (hundred.p50, hundred.p95, hundred.p99) == (50, 95, 99)


def keeps_up_to(capacity: float, tried: list[float]) -> Callable[[float], Awaitable[float]]:
    async def measure(rate: float) -> float:
        tried.append(rate)
        return min(1.0, capacity / rate)

    return measure


@given(st.floats(0.5, 2000), st.floats(0.1, 10))
def test_the_saturation_is_found_from_any_guess(capacity: float, factor: float) -> None:
    tried: list[float] = []
    found = asyncio.run(find_saturation(keeps_up_to(capacity, tried), capacity * factor))
    assert capacity / 0.98 / 1.05 <= found <= capacity / 0.98 * 1.0001
    assert len(tried) <= 14


async def test_a_server_that_keeps_up_with_nothing_ends_the_search() -> None:
    with pytest.raises(ValueError, match="guess another"):
        await find_saturation(keeps_up_to(0.0, []), 5.0)


async def test_as_a_command(server, tmp_path, capsys) -> None:
    written = tmp_path / "load.json"
    for seconds in ("0.5", "4", "20"):  # a machine may stand still for longer than the shortest of them, in either
        command = ["--url", server.url, "--seconds", seconds, "--streams", "2", "--json", str(written)]
        assert await asyncio.to_thread(load.main, command) == 0
        _, closed, *rest = json.loads(written.read_text())
        if closed["complete"] and rest[0]["goodput"]:
            break
    (half,) = rest
    assert (closed["phase"], half["phase"]) == ("2 streams", "half of it")
    assert closed["complete"] and half["goodput"] and not closed["failed"] and closed["wrong"] is None
    server.script = 500, {}, ["broken"]
    assert await asyncio.to_thread(load.main, ["--url", server.url, "--seconds", "0.3", "--rate", "20"]) == 1
    assert "failed: 500: broken" in capsys.readouterr().out


async def test_where_nothing_is_completed_no_rate_follows_from_it(server, capsys) -> None:
    server.script = 500, {}, ["broken"]
    command = ["--url", server.url, "--seconds", "2", "--streams", "1"]
    assert await asyncio.to_thread(load.main, command) == 1
    assert "nothing was completed in that time: no rate follows from it" in capsys.readouterr().out


async def test_no_arrivals_are_no_outcomes(server) -> None:
    async with Client(server.url, "model", "none") as client:
        assert await poisson(client, iter([]), [Phase("none", 0.001, 0.01)], seed=1) == []
