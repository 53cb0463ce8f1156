"""One request from its first line to the end of its answer: who asks, is there room, wake, wait, send on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from moe_operator.activator import answers
from moe_operator.activator.access import admitting, presented
from moe_operator.activator.announcement import Announcement
from moe_operator.activator.answers import Refusal
from moe_operator.activator.forwarding import PASSED_ON, Body, Forwarder
from moe_operator.activator.metrics import Metrics
from moe_operator.activator.places import FullError, Place, Places
from moe_operator.activator.roster import Roster
from moe_operator.activator.waking import Waker

HOLD_SECONDS = 120.0
"""From a request's arrival until it is sent on, or given up."""
MOST_BODY = 16 << 20
"""Bytes of one request: as many as the API reads."""
BODY_IDLE_SECONDS = 30.0
"""A body that brings nothing for so long is given up."""


@dataclass(frozen=True, slots=True)
class Service:
    """Its parts; ``seconds``: see ``HOLD_SECONDS``."""

    roster: Roster
    waker: Waker
    forwarder: Forwarder
    metrics: Metrics
    places: Places = field(default_factory=Places)
    seconds: float = HOLD_SECONDS

    def __post_init__(self) -> None:
        self.metrics.holds(self.places)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Of aiohttp."""
        try:
            answer = await self._handle(request)
        except Refusal as refusal:
            self.metrics.refused(refusal.code)
            refused = web.Response(
                status=refusal.status, text=refusal.body(), content_type="application/json", headers=refusal.headers
            )
            refused.force_close()
            return refused
        except ConnectionError:  # the client has gone
            self.metrics.refused("client_gone")
            raise
        self.metrics.answered()
        return answer

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if PASSED_ON in request.headers:
            raise answers.in_a_circle()
        deployment = self._admitted(request)
        if not self.roster.is_led_here(deployment):
            raise answers.awake()
        deadline = asyncio.get_running_loop().time() + self.seconds
        try:
            with self.places.take(deployment.key) as place:
                try:
                    async with asyncio.timeout_at(deadline):
                        body = await self._held(request, deployment, place)
                except TimeoutError:
                    raise answers.not_in_time(self.seconds) from None

                def begun() -> None:
                    place.give_back(body.sent)
                    if body.sent:
                        body.drop()

                return await self.forwarder.send(request, body, deployment, deadline, self.seconds, begun)
        except FullError:
            raise answers.full() from None

    def _admitted(self, request: web.Request) -> Announcement:
        """Whom it is for, of those that its key opens; nothing of its body is read yet, and nobody is woken."""
        path = request.rel_url.raw_path
        found = self.roster.asked(path, request.host)
        if not found:
            raise answers.asleep() if any(self.roster.covering(path)) else answers.unknown_route(path)
        key = presented(request.headers.get("Authorization", ""))
        opened = admitting(key, found)
        if not opened:
            raise answers.no_key(shown=bool(key))
        if len(opened) > 1:
            raise answers.ambiguous(path)
        return opened[0]

    async def _held(self, request: web.Request, deployment: Announcement, place: Place) -> Body:
        """Its body, once the deployment serves."""
        if not deployment.held:
            return await self._body(request, place)
        waking = asyncio.create_task(self._woken(deployment))
        try:
            body = await self._body(request, place)
            await waking
        finally:
            waking.cancel()
        return body

    async def _woken(self, deployment: Announcement) -> None:
        await self.waker.wake(deployment)
        await self.roster.until_led_past(deployment.key)

    async def _body(self, request: web.Request, place: Place) -> Body:
        if (request.content_length or 0) > MOST_BODY:
            raise answers.too_large(MOST_BODY)
        body = bytearray()
        try:
            while piece := await asyncio.wait_for(request.content.readany(), BODY_IDLE_SECONDS):
                place.add(len(piece))
                body += piece
                if len(body) > MOST_BODY:
                    raise answers.too_large(MOST_BODY)
        except TimeoutError:
            raise answers.no_body() from None
        return Body(bytes(body))
