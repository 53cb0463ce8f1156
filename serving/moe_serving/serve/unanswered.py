"""What clients are told when the api process that carried their request has died, or the pod of this process ends
before their answer: an ASGI middleware of Serve's proxy.

The proxy itself ends such a request without a word: that makes it a 500 in plain text, or a stream that is cut. No Ray
is imported here, and of ours only what is as light: it runs in Serve's process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from moe_serving.serve.leaving import UnderWay

SIGNATURE = "x-moe-api"
"""Header of every answer of an api process: its name, as Serve's status and logs call it."""

ERROR = {
    "message": "the process that was answering this request has ended before the answer was complete; send it again",
    "type": "server_error",
    "param": None,
    "code": "api_lost",
}
_ROUTES = re.compile(r"/v1/(chat/completions|completions|models(/.*)?)$")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Unanswered:
    """Ends in OpenAI's shape what ``app`` leaves without an end: a request to a route of the OpenAI API that was not
    answered with 503, a stream of ours with an error event. A body of known length that was cut stays so.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._under_way = UnderWay()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        await self._under_way.bounded(self._app(scope, receive, answer.send))
        if not answer.begun and _ROUTES.search(scope["path"]):
            await _refuse(send)
        elif answer.is_our_stream and not answer.complete:
            event = f"data: {json.dumps({'error': ERROR})}\n\n"
            await send({"type": "http.response.body", "body": event.encode(), "more_body": False})


class _Answer:
    """What has been sent."""

    def __init__(self, send: Send) -> None:
        self.begun = self.complete = self.is_our_stream = False
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {bytes(name).lower(): bytes(value) for name, value in message.get("headers", ())}
            is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            self.begun, self.is_our_stream = True, is_stream and SIGNATURE.encode() in headers
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self._send(message)


async def _refuse(send: Send) -> None:
    body = json.dumps({"error": ERROR}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
