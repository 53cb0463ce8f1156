"""A body that an api has not had, although it came: the request is sent again, and nothing else is."""

from collections.abc import Callable
from typing import Any

import pytest
import uvicorn.config

from moe_serving.serve import proxy, resent
from moe_serving.serve.resent import Resent
from moe_serving.serve.unanswered import SIGNATURE

Json = dict[str, Any]
OURS = [(SIGNATURE.encode(), b"api-1")]
PARTS = [b"a body ", b"in parts"]


def request(body: bytes, more: bool = False) -> Json:
    return {"type": "http.request", "body": body, "more_body": more}


WHOLE = [request(PARTS[0], more=True), request(PARTS[1])]


def start(status: int, headers: list[tuple[bytes, bytes]] = OURS) -> Json:
    return {"type": "http.response.start", "status": status, "headers": headers}


def end(body: bytes = b"") -> Json:
    return {"type": "http.response.body", "body": body, "more_body": False}


class Serve:
    """Answers as it is told, one answer for each call, once it has read what comes, as Serve's proxy does."""

    def __init__(self, *answers: list[Json]) -> None:
        self.answers = list(answers)
        self.scopes: list[Json] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(dict(scope))
        scope["path"] = "/as-serve-changes-it"
        body, more = b"", True
        while more and (message := await receive())["type"] == "http.request":
            body, more = body + message["body"], message["more_body"]
        self.bodies.append(body)
        for message in self.answers.pop(0):
            await send(message)


async def asked(serve: Serve, messages: list[Json], through: Resent | None = None) -> list[Json]:
    """What the client of a request gets."""
    sent: list[Json] = []
    coming = [*messages, {"type": "http.disconnect"}]

    async def receive() -> Json:
        return coming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await (through or Resent(serve))({"type": "http", "path": "/v1/completions"}, receive, send)
    return sent


async def test_the_second_answer_is_the_clients() -> None:
    serve = Serve([start(408), end(b"the body is not complete")], [start(200), end(b"tokens")])
    assert await asked(serve, WHOLE) == [start(200), end(b"tokens")]
    assert serve.bodies == [b"".join(PARTS)] * 2
    assert serve.scopes[0] == serve.scopes[1]


@pytest.mark.parametrize(
    ("messages", "answer"),
    [
        pytest.param(WHOLE, start(200), id="answered"),
        pytest.param(WHOLE, start(503), id="another error"),
        pytest.param(WHOLE, start(408, []), id="of somebody else"),
        pytest.param(WHOLE[:1], start(408), id="a slow client"),
        pytest.param([], start(408), id="nothing came"),
    ],
)
async def test_any_other_answer_goes_on(messages: list[Json], answer: Json) -> None:
    serve = Serve([answer, end(b"said")])
    assert await asked(serve, messages) == [answer, end(b"said")]
    assert len(serve.scopes) == 1


async def test_once() -> None:
    serve = Serve([start(408), end(b"first")], [start(408), end(b"second")])
    assert await asked(serve, WHOLE) == [start(408), end(b"second")]


async def test_a_body_that_no_api_reads_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resent, "MOST_BYTES", len(b"".join(PARTS)) - 1)
    serve = Serve([start(408), end()])
    assert await asked(serve, WHOLE) == [start(408), end()]


async def test_bodies_together_are_bounded_and_leave_room_when_they_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resent, "MOST_KEPT_BYTES", 2 * len(b"".join(PARTS)) - 1)
    inner: list[list[Json]] = []

    class Meanwhile(Serve):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await super().__call__(scope, receive, send)
            if not inner:
                inner.append([])
                inner[0] += await asked(self, WHOLE, through)

    late, done = [start(408), end()], [start(200), end()]
    serve = Meanwhile(late)
    through = Resent(serve)
    serve.answers += [late, done]
    assert await asked(serve, WHOLE, through) == done  # kept
    assert inner == [late]  # came while the first was kept
    serve.answers += [late, done]
    assert await asked(serve, WHOLE, through) == done  # there is room again


async def test_what_is_no_request_by_http_passes() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError("nobody asks")

    await Resent(app)({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]


def test_serves_proxy_has_it_inside_of_what_ends_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    assert [each.cls.__name__ for each in proxy.set_up()] == ["Resent", "Unanswered"]
