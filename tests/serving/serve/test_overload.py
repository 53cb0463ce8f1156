"""More requests than can be served at once, over the whole way: some are turned away in time, the others are right."""

import asyncio
import time
from collections import Counter

import httpx2
import pytest
from benchmarks.serving.client import Ask, Client, Verdict
from benchmarks.serving.traffic import Mix
from load import compare_with_reference

from moe_contract.applications import AttentionConfig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
async def client(plane):
    async with Client(f"{plane.url}/v1", "tiny", plane.api_key) as client:
        yield client


async def test_two_hundred_requests_at_once(plane, openai, client, tiny) -> None:
    narrow = AttentionConfig(max_running=8, queue_requests=8)
    await asyncio.to_thread(plane.set_attention, narrow)
    tokens = 12
    asks = [Ask(ask.prompt, tokens) for ask in Mix(prompt=(2, 20), distinct=200, seed=5).asks()]
    try:
        outcomes = await asyncio.gather(*map(client.ask, asks))
    finally:
        await asyncio.to_thread(plane.set_attention, AttentionConfig())
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    print(verdicts)
    assert set(verdicts) == {Verdict.COMPLETE, Verdict.REFUSED}, {o.why for o in outcomes}
    assert min(verdicts.values()) >= 16, "what two replicas run at once, and more than their queues take"
    refused = [o for o in outcomes if o.verdict is Verdict.REFUSED]
    assert all('"type":"rate_limit_exceeded"' in o.why and 1 <= o.retry_after_s <= 60 for o in refused)
    answers = [(o.ask.prompt, tuple(o.token_ids)) for o in outcomes if o.verdict is Verdict.COMPLETE]
    await asyncio.to_thread(compare_with_reference, tiny, openai, answers[:8], tokens)


async def test_a_short_answer_beside_128_long_ones(plane, client) -> None:
    body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 900, "n": 128, "ignore_eos": True, "stream": True}
    headers = {"Authorization": f"Bearer {plane.api_key}"}
    async with (
        httpx2.AsyncClient(timeout=120) as other,
        other.stream("POST", f"{plane.url}/v1/completions", json=body, headers=headers) as many,
    ):
        assert many.status_code == 200
        await anext(many.aiter_lines())
        begin = time.monotonic()
        outcome = await client.ask(Ask((8, 9, 10, 11, 12), 5))
    assert (outcome.verdict, outcome.why) == (Verdict.COMPLETE, "")
    assert time.monotonic() - begin < 20, "the long ones take minutes"
