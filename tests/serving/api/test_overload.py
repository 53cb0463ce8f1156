"""A full queue: what clients are told, and that they are told it before a byte of an answer."""

import asyncio
import hashlib
import json

import pytest

from moe_serving.api.errors import OverloadedError
from moe_serving.engine.request import Origin, TokenEvent

COMPLETION = {"model": "model", "prompt": "the fox", "max_tokens": 20, "temperature": 0}


def full_for(*names: str):
    """Answers whose ids end so are turned away; the others go on and on."""

    def script(request):
        if request.request_id.endswith(names):
            return [OverloadedError("more requests wait", 7)]
        return [TokenEvent(""), *(TokenEvent("", (9,)) for _ in range(1000))]

    return script


@pytest.mark.parametrize("streamed", [False, True])
async def test_too_many_requests(api, client, streamed) -> None:
    api.source.script = full_for("-0")
    response = await client.post("/v1/completions", json=COMPLETION | {"stream": streamed})
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.json()["error"] == {
        "message": "more requests wait; try again in 7 s",
        "type": "rate_limit_exceeded",
        "param": None,
        "code": "queue_full",
    }
    assert 'moe_http_requests_total{code="429",route="/v1/completions"} 1.0' in (await client.get("/metrics")).text


async def test_a_request_is_turned_away_as_a_whole_before_a_byte_of_it_is_told(api, client, eventually) -> None:
    late = asyncio.Event()
    told = asyncio.Event()
    plain = api.source.stream

    async def stream(request):
        if request.request_id.endswith("-2"):
            await late.wait()
        async for event in plain(request):
            yield event
            told.set()

    api.source.stream = stream
    api.source.script = full_for("-2")
    asking = asyncio.create_task(client.post("/v1/completions", json=COMPLETION | {"n": 3, "stream": True}))
    await told.wait()
    await asyncio.sleep(0.05)
    assert not asking.done()
    late.set()
    assert (await asking).status_code == 429
    await eventually(lambda: len(api.source.cancelled) == 2, "the other answers to be cancelled")


async def test_answers_are_told_once_all_are_taken_on(api, client) -> None:
    api.answer_with(" dog")
    response = await client.post("/v1/completions", json=COMPLETION | {"n": 3, "stream": True})
    chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1, 2}


async def test_the_engine_is_told_whose_answers_they_are(api, client) -> None:
    api.answer_with(" dog")
    await client.post("/v1/completions", json=COMPLETION | {"n": 2})
    (nobody, same), api.source.asked = [request.origin for request in api.source.asked], []
    assert nobody == same == Origin("", nobody.request)
    assert nobody.request.startswith("cmpl-")
    api.service.configure({"served_name": "model", "api_key_sha256": [_digest("one"), _digest("two")]})
    for key in ("one", "two", "one"):
        headers = {"Authorization": f"Bearer {key}"}
        assert (await client.post("/v1/completions", json=COMPLETION, headers=headers)).status_code == 200
    one, two, again = (request.origin for request in api.source.asked)
    assert one.client == again.client != two.client
    assert one.request != again.request
    assert _digest("one").startswith(one.client) and len(one.client) == 12


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def test_what_the_queue_could_never_take_is_no_matter_of_time(api, client) -> None:
    api.answer_with(" dog")
    api.service.configure({"served_name": "model", "queue_tokens": 60})
    prompt = len(api.service.bounds("model").tokenizer.encode("the fox"))
    fits = {"n": 3, "max_tokens": 20 - prompt}
    assert (await client.post("/v1/completions", json=COMPLETION | fits)).status_code == 200
    response = await client.post("/v1/completions", json=COMPLETION | {"n": 4, "max_tokens": 20 - prompt})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "max_tokens")
    assert response.json()["error"]["message"] == (
        "max_tokens: 4 answers and their prompts are 80 tokens, and one request may ask for 60; ask for fewer or "
        "shorter answers"
    )
