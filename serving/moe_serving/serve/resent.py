"""A request whose body went to a process that was given up is sent again: an ASGI middleware of Serve's proxy.

Serve gives the body of a request to the first api that asks for it. On a busy machine one may ask whose word that it
has accepted the request comes too late (``router``): by then the request is another one's, for which nothing is left.
That one waits for the body, and in the end says, as it would of a slow client, that it is not complete. No Ray is
imported here, and of ours only what is as light: it runs in Serve's process.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from moe_serving.serve.unanswered import SIGNATURE, AsgiApp, Message, Receive, Send

MOST_BYTES = 16 << 20
"""Of a body that is kept until its answer begins; an api reads no larger one."""
MOST_KEPT_BYTES = 64 << 20
"""Of all such bodies together; what comes beyond is not kept, and so not sent again."""
_NOT_COMPLETE = 408


class Resent:
    """Calls ``app`` once more, with the same request, where an api has not had a body that came here as a whole: it
    has done nothing with it. Clients wait for that, and see the second answer alone.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._room = _Room()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        again, body = dict(scope), _Body(receive, self._room)  # Serve writes into the one that it gets
        answer = _Answer(send, body)
        try:
            await self._app(scope, body.receive, answer.send)
            if answer.is_withheld:
                await self._app(again, body.receive_again(), send)
        finally:
            body.forget()


class _Room:
    """How much all bodies that are kept have taken."""

    def __init__(self) -> None:
        self.bytes = 0


class _Body:
    """What has come of a request, for as long as it may be wanted again.

    Attributes:
        is_whole: whether all of it came, and is here.
    """

    def __init__(self, receive: Receive, room: _Room) -> None:
        self.is_whole = False
        self._receive = receive
        self._room = room
        self._kept: list[Message] | None = []
        self._bytes = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if self._kept is not None and message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._bytes += size
            self._room.bytes += size
            if self._bytes > MOST_BYTES or self._room.bytes > MOST_KEPT_BYTES:
                self.forget()
            else:
                self._kept.append(message)
                self.is_whole = not message.get("more_body", False)
        return message

    def forget(self) -> None:
        self._room.bytes -= self._bytes
        self._kept, self.is_whole, self._bytes = None, False, 0

    def receive_again(self) -> Receive:
        """From the beginning, which is given up here: the body, then what else comes."""
        first = list(self._kept or ())
        self.forget()

        async def receive() -> Message:
            return first.pop(0) if first else await self._receive()

        return receive


class _Answer:
    """What is sent on.

    Attributes:
        is_withheld: whether it says that the body has not come, which came.
    """

    def __init__(self, send: Send, body: _Body) -> None:
        self.is_withheld = False
        self._send = send
        self._body = body

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {bytes(name).lower() for name, _ in message.get("headers", ())}
            is_ours = SIGNATURE.encode() in names
            self.is_withheld = is_ours and message["status"] == _NOT_COMPLETE and self._body.is_whole
            if not self.is_withheld:
                self._body.forget()
        if not self.is_withheld:
            await self._send(message)
