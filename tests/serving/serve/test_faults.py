"""Whatever happens to shards and replicas under load: no request fails, and every token is the right one."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from load import Load, compare_with_reference
from openai import APIError, AsyncOpenAI, BadRequestError
from scraper import Scraper

from moe_contract.applications import AttentionConfig
from moe_serving.serve.unanswered import SIGNATURE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STREAMS = 8
TOKENS = 48
COMPLETED = 'moe_http_requests_total{code="200",route="/v1/completions"}'
FROZEN_S = 25.0
"""For two turns of all streams beside a frozen process; less than Serve gives it."""


@pytest.fixture
def load(plane) -> Load:
    """At least eight streams at a time."""
    prompts = [tuple(range(11 * i + 5, 12 * i + 15)) for i in range(STREAMS)]
    return Load(plane.url, plane.api_key, prompts, TOKENS)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def check(openai, tiny, load):
    """Compares all answers of the load with the unsharded model's; prints how many."""

    def check(at_least: int = 2 * STREAMS) -> None:
        assert len(load.answers) >= at_least
        tally = compare_with_reference(tiny, openai, load.answers, TOKENS)
        print(f"{len(load.answers)} answers, none failed; {tally}")

    return check


@pytest.mark.long
async def test_shards_come_and_go(plane, load, check) -> None:
    before = plane.pids()
    async with load:
        await load.flow()
        await asyncio.to_thread(plane.scale, 4)
        grown = plane.pids()
        await asyncio.to_thread(plane.scale, 2)
    assert {name: grown[name] for name in before} == before, "a process that nobody touched was replaced"
    assert len(grown) == len(before) + 2
    assert plane.pids() == before
    await asyncio.to_thread(check)


async def test_a_shard_is_killed(plane, load, check) -> None:
    victim = plane.report().shards[0]
    failovers = plane.report().traffic.failovers
    async with load:
        await load.flow()
        os.kill(victim.pid, signal.SIGKILL)
        back = await asyncio.to_thread(
            plane.wait,
            lambda report: report.progress.settled and report.shards[0].incarnation not in ("", victim.incarnation),
            "the shard to be back with all its experts",
        )
    assert back.shards[0].held == victim.held
    assert back.traffic.failovers > failovers, "no layer was under way when the shard died"
    assert {replica.node for replica in back.attention} == {shard.node for shard in back.shards}, "all are on one"
    assert any(pace.median > 0 for figures in back.traffic.epochs for pace in figures.paces), "no token was timed"
    await asyncio.to_thread(check)


async def test_an_attention_replica_is_killed(plane, load, check) -> None:
    def failovers() -> float:
        lines = plane.get("/metrics")[1].splitlines()
        (count,) = (line.split()[1] for line in lines if line.startswith("moe_attention_failovers_total"))
        return float(count)

    async with load:
        for _ in range(3):  # where no answer was under way in the one that died, nothing is shown
            await load.flow()
            victim = plane.report().attention[0]
            os.kill(victim.pid, signal.SIGKILL)
            await asyncio.to_thread(
                plane.wait,
                lambda report, lost=victim.replica: (
                    lost not in {r.replica for r in report.attention} and sum(r.ready for r in report.attention) == 2
                ),
                "another replica in its place",
            )
            if await asyncio.to_thread(failovers) > 0:
                break
    assert failovers() > 0, "no answer was under way when a replica died"
    await asyncio.to_thread(check)


@pytest.mark.long
async def test_an_attention_replica_is_taken_away(plane, load, check) -> None:
    async with load:
        await load.flow()
        await asyncio.to_thread(plane.set_attention, replicas=1)
        await asyncio.to_thread(plane.wait, lambda report: len(report.attention) == 1, "one replica to be left")
        await load.flow()
        await asyncio.to_thread(plane.set_attention, replicas=2)
        await asyncio.to_thread(
            plane.wait, lambda report: sum(replica.ready for replica in report.attention) == 2, "two replicas again"
        )
    await asyncio.to_thread(check)


async def test_the_directory_is_killed(plane, load, check) -> None:
    (victim,) = plane.pids()["serving/directory"]
    epoch = plane.report().epoch
    async with load:
        await load.flow()
        assert (await asyncio.to_thread(plane.wait_statistics)).tokens > 0
        os.kill(victim, signal.SIGKILL)
        await load.flow()
        back = await asyncio.to_thread(
            plane.wait, lambda report: report.progress.settled and report.epoch > epoch, "another directory to know all"
        )
        await load.flow()
    assert sum(shard.held for shard in back.shards) == back.progress.total
    report = await asyncio.to_thread(plane.report)
    assert {api.host for api in report.apis if api.ready} == {replica.host for replica in report.attention}, "one node"
    told_again = await asyncio.to_thread(plane.wait_statistics)
    pairs = told_again.tokens * told_again.shape.layers * told_again.shape.top_k
    assert told_again.load.sum() == pytest.approx(pairs), "all of it of whole rows"
    await asyncio.to_thread(plane.hand_over, told_again)
    assert (await asyncio.to_thread(plane.wait_statistics)).tokens > 1.5 * told_again.tokens, "as if twice as much came"
    await asyncio.to_thread(check)


async def test_an_api_is_killed(plane, load, check) -> None:
    """Its own requests end with an error. Nobody else notices: not who asks from then on, nor who reads the metrics."""
    victim = min(plane.pids()["serving/api"])
    long = [asyncio.create_task(_ask_long(plane, stream=number % 2 == 0)) for number in range(STREAMS)]
    async with Scraper(plane) as scraper:
        await scraper.wait(lambda last: last.get("moe_answers_running") == STREAMS, "all to be under way")
        before = scraper.last.get(COMPLETED, 0.0)
        os.kill(victim, signal.SIGKILL)
        async with load:
            await load.flow()
            await asyncio.to_thread(plane.wait_replaced, "api", victim, replicas=2)
            await load.flow()
        ends = await asyncio.gather(*long)
        answered = before + len(load.answers) + sum(ends)
        await scraper.wait(lambda last: last.get(COMPLETED, 0.0) >= answered, f"{answered} answers to be counted")
    assert 0 < sum(ends) < STREAMS, "both were to carry some of the requests"
    print(
        f"{len(ends) - sum(ends)} of {len(ends)} answers cut, {len(load.answers)} answers and {scraper.scrapes} scrapes"
    )
    assert scraper.scrapes > 10
    models = await _ask_each_api(plane, "/v1/models")
    assert len(models) == 2
    assert len(set(models.values())) == 1
    await asyncio.to_thread(
        plane.wait,
        lambda report: report.attention and not any(replica.kv_tokens for replica in report.attention),
        "replicas to drop what nobody waits for any more",
    )
    await asyncio.to_thread(check)


async def _ask_each_api(plane, path: str) -> dict[str, str]:
    """What each api process answers, by its name; asks until two have answered."""
    told: dict[str, str] = {}
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {plane.api_key}"}, timeout=60) as client:
        for _ in range(200):
            answer = await client.get(plane.url + path)
            assert answer.status_code == 200
            told[answer.headers[SIGNATURE]] = answer.text
            if len(told) == 2:
                break
    return told


async def _ask_long(plane, stream: bool) -> bool:
    """Whether a long answer came to its end; if not, the client was told why."""
    async with AsyncOpenAI(base_url=f"{plane.url}/v1", api_key=plane.api_key, max_retries=0, timeout=180) as client:
        try:
            answer = await client.completions.create(
                model="tiny", prompt="x", max_tokens=300, stream=stream, extra_body={"ignore_eos": True}
            )
            last = [chunk async for chunk in answer][-1] if stream else answer
        except APIError as error:
            assert (error.code, error.type) == ("api_lost", "server_error")
            return False
    return last.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    "what", ["attention", "shard", *(pytest.param(each, marks=pytest.mark.long) for each in ("api", "directory"))]
)
async def test_a_frozen_process_holds_nobody_up(plane, load, check, what) -> None:
    """It keeps its connections, and nobody is told. Serve would take half a minute to end it. An api's own streams wait
    for it; they go on when it does.
    """
    report = plane.report()
    pids = {
        "api": min(plane.pids()["serving/api"]),
        "attention": report.attention[0].pid,
        "directory": min(plane.pids()["serving/directory"]),
        "shard": report.shards[0].pid,
    }
    before = plane.pids()
    async with load:
        await load.flow()
        with frozen(pids[what]):
            async with asyncio.timeout(FROZEN_S):
                await load.flow()  # those that it had end elsewhere
                await load.flow()  # and new ones do not go there
    assert plane.pids() == before, "it was ended before anybody had to do without it"
    await asyncio.to_thread(check)


async def test_other_limits_restart_nothing(plane, load, openai, check) -> None:
    before = plane.pids()
    narrow = AttentionConfig(max_running=2, max_batch_tokens=16, kv_cache_tokens=160)
    async with load:
        await load.flow()
        await asyncio.to_thread(plane.set_attention, narrow)
        await asyncio.to_thread(
            plane.wait,
            lambda report: any(0 < replica.running <= 2 and replica.waiting for replica in report.attention),
            "the new limits",
        )
        with pytest.raises(BadRequestError) as refused:
            await asyncio.to_thread(openai.completions.create, model="tiny", prompt=[5, 6], max_tokens=200)
        assert refused.value.body["message"] == (
            "max_tokens: 200 and a prompt of 2 tokens are too many; this model's maximum context length is 160 tokens, "
            "what the cache of a replica holds "
            "(its kv_cache_tokens; the model has 1024); ask for at most 158"
        )
        await asyncio.to_thread(plane.set_attention, AttentionConfig())
        await load.flow()
    assert plane.pids() == before
    await asyncio.to_thread(check)
