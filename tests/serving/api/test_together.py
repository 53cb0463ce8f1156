"""Tokens of a stream that are ready together leave together, and none is delayed: judged in turns of the event loop.

The real application over the real end of the token streams; what a replica would send is put there directly, and a
message is what the application hands to its HTTP server.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from moe_serving.engine.request import FinishReason, GenerationRequest
from moe_serving.streams.messages import StreamEvent
from moe_serving.streams.receiver import StreamReceiver, TokenStream
from moe_serving.streams.source import ReplicatedSource

TURNS = 12
"""Of the event loop, from a token's arrival to its leaving: no timer ends in them, and nothing waits for another step.
It takes 4."""
PATHS = {"/v1/completions": {"prompt": "the"}, "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]}}


class Client:
    """Asks the application as its HTTP server does.

    Attributes:
        messages: what has been sent, each with the ids of its tokens by answer.
        may_read: cleared while the client does not read.
    """

    def __init__(self, app: Any, path: str, body: dict[str, Any]) -> None:
        self.messages: list[dict[int, list[int]]] = []
        self.text = ""
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._body: bytes | None = json.dumps(body).encode()
        scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"content-type", b"application/json")]}
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("api", 80), "client": None}
        scope |= {"raw_path": path.encode(), "root_path": "", "asgi": {"version": "3.0", "spec_version": "2.4"}}
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body is None:
            await asyncio.Event().wait()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200
        elif message["body"]:
            text = message["body"].decode()
            self.text += text
            self.messages.append(_ids_in(text))
        await self.may_read.wait()


def _ids_in(text: str) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for event in text.split("\n\n")[:-1]:
        if event != "data: [DONE]":
            for choice in json.loads(event.removeprefix("data: "))["choices"]:
                found.setdefault(choice["index"], []).extend(choice["token_ids"])
    return {index: ids for index, ids in found.items() if ids}


class Replica:
    """In place of one: its tokens are put where they would arrive."""

    def __init__(self) -> None:
        self.streams: list[TokenStream] = []
        receiver = StreamReceiver()
        opened = receiver.open

        def open_(request_id: str, max_tokens: int) -> TokenStream:
            self.streams.append(opened(request_id, max_tokens))
            return self.streams[-1]

        receiver.open = open_
        self.source = ReplicatedSource(receiver, self._answer, lambda: pytest.fail("nothing was lost"))

    async def _answer(self, request: GenerationRequest, stream: int) -> None:
        await asyncio.Event().wait()

    def take(self) -> None:
        """The word of all answers that they have a place, twice: see ``StreamEvent``."""
        for stream in self.streams * 2:
            stream.put(StreamEvent(stream.number))

    def step(self, tokens: Sequence[Sequence[int]], finish: FinishReason | None = None) -> dict[int, list[int]]:
        """``tokens`` by answer, as one frame brings them; returns what a message with just these has."""
        for stream, ids in zip(self.streams, tokens, strict=True):
            if ids:
                stream.put(StreamEvent(stream.number, tuple(ids), finish))
        return {index: list(ids) for index, ids in enumerate(tokens) if ids}


@asynccontextmanager
async def asked(api, eventually, path: str, answers: int) -> AsyncIterator[tuple[Client, Replica]]:
    """A stream of so many answers, which a replica has taken on and not begun."""
    replica = Replica()
    api.service.source = replica.source
    wanted = {"model": "model", "stream": True, "return_token_ids": True, "max_tokens": 50, "n": answers}
    client = Client(api.app, path, PATHS[path] | wanted)
    try:
        await eventually(lambda: len(replica.streams) == answers, "all answers to be asked for")
        replica.take()
        yield client, replica
    finally:
        client.task.cancel()
        await asyncio.gather(client.task, return_exceptions=True)


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("answers", [1, 3])
async def test_each_step_is_one_message_and_leaves_before_the_next(api, eventually, path: str, answers: int) -> None:
    """However many tokens a step brings of each answer, which a busy machine or a failover may make several."""
    draw = random.Random(answers)
    letters = api.service.bounds("model").tokenizer.encode("abcdefghijklmnopqrstuvwxyz")
    async with asked(api, eventually, path, answers) as (client, replica):
        expected: list[dict[int, list[int]]] = []
        for _ in range(12):
            tokens = [draw.choices(letters, k=draw.randint(0, 3)) for _ in range(answers)]
            told = replica.step(tokens)
            expected += [told] if told else []
            await turns()
            assert [each for each in client.messages if each] == expected
        last = replica.step([[letters[0]]] * answers, "length")
        await turns()
        assert [each for each in client.messages if each] == [*expected, last], "the end leaves with the last of them"
        assert client.text.endswith("data: [DONE]\n\n") and client.task.done()
    told_nothing = sum(not each for each in client.messages)
    assert told_nothing == (path == "/v1/chat/completions" and not client.messages[0])


async def test_what_comes_while_a_client_does_not_read_is_one_message(api, eventually) -> None:
    letters = api.service.bounds("model").tokenizer.encode("abcdefghij")
    async with asked(api, eventually, "/v1/completions", 1) as (client, replica):
        replica.step([letters[:1]])
        await turns()
        client.may_read.clear()
        for letter in letters[1:]:
            replica.step([[letter]])
            await turns()
        assert client.messages == [{0: [letters[0]]}, {0: [letters[1]]}], "what was under way"
        client.may_read.set()
        await turns()
        assert client.messages[2:] == [{0: letters[2:]}]
