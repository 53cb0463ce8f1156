"""The api's source of tokens: one answer from as many replicas as it takes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from moe_serving.api.errors import ApiError, GenerationError, NotReadyError, OverloadedError
from moe_serving.engine.request import GenerationRequest, TokenEvent
from moe_serving.streams.errors import ReplicaLostError
from moe_serving.streams.receiver import StreamReceiver, TokenStream

logger = logging.getLogger(__name__)

RESUME_S = 60.0
"""How long an answer may stand still for want of a replica: a restart with a model to load takes its time."""
_TAKEN_S = 4.0
"""A call that no replica has taken by then is made anew; doubles each time. Serve sends one on that was not accepted
(``serve.router``), so this is for a replica that froze just after."""
_GRACE_S = 5.0
"""How long tokens may trail behind the end of the call that brings them."""
_MOST_LOSSES = 3
"""So many replicas in a row an answer may lose without a token from any: what kills replicas must not meet them all."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0

Call = Callable[[GenerationRequest, int], Coroutine[Any, Any, None]]
"""Has some replica answer a request on the stream of this number; returns when it has. Raises ReplicaLostError when
that replica is gone, ApiError when no replica can help. Cancelling it cancels the request."""


class ReplicatedSource:
    """A ``TokenSource`` that survives its replicas: it asks another one for the rest of an answer.

    Args:
        on_failover: called when an answer goes on elsewhere.
        on_lost: called with the name of a replica that should not be asked for a while.
        has_several: whether there is another replica to ask when one has enough to do.
    """

    def __init__(
        self,
        receiver: StreamReceiver,
        call: Call,
        on_failover: Callable[[], None],
        on_lost: Callable[[str], None] = lambda replica: None,
        has_several: Callable[[], bool] = lambda: False,
    ) -> None:
        self._receiver = receiver
        self._call = call
        self._on_failover = on_failover
        self._on_lost = on_lost
        self._has_several = has_several
        self._calls: set[asyncio.Task[None]] = set()
        self._end: ApiError | None = None

    def end(self, error: ApiError) -> None:
        """Fail all answers under way, and all to come, with ``error``."""
        self._end = error
        self._receiver.fail_all(error)
        for call in self._calls:
            call.cancel()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """See ``TokenSource``. Where the replicas differ nothing is repeated and nothing missing: the next one gets the
        tokens already told and goes on behind them, with the random numbers of those positions.
        """
        told = list(request.emitted_ids)
        deadline, pause = time.monotonic() + RESUME_S, _FIRST_PAUSE_S
        attempt = losses = untaken = 0
        turned_away = accepted = False
        while len(told) < request.sampling.max_tokens:
            if self._end is not None:
                raise self._end
            name = f"{request.request_id}.{attempt}"
            asked = replace(request, request_id=name, emitted_ids=tuple(told), resumed=accepted)
            stream = self._receiver.open(asked.request_id, request.sampling.max_tokens - len(told))
            try:
                take_by = min(deadline, time.monotonic() + _TAKEN_S * 2**untaken)
                async with aclosing(self._ask(asked, stream, take_by)) as events:
                    async for event in events:
                        told.extend(event.token_ids)
                        untaken, accepted = 0, True
                        if event.token_ids:
                            losses = 0
                            deadline, pause = time.monotonic() + RESUME_S, _FIRST_PAUSE_S
                        yield event
                        if event.finish_reason:
                            return
            except OverloadedError:
                # A replica may have told of a place in its queue and been left for another one by the router, which
                # had no word from it in time: what a client has heard of goes on, as after a loss.
                if asked.resumed or (not accepted and (turned_away or not self._has_several())):
                    raise
                turned_away = True
                attempt += 1
            except ReplicaLostError as error:
                losses += stream.taken.is_set()
                untaken += not stream.taken.is_set()
                if error.replica is not None:
                    self._on_lost(error.replica)
                if losses >= _MOST_LOSSES:
                    logger.warning("request %s is given up: %s", request.request_id, error)
                    raise GenerationError(f"{losses} attention replicas in a row were lost over it") from error
                if time.monotonic() + pause > deadline:
                    logger.warning("request %s is given up: %s", request.request_id, error)
                    raise NotReadyError("no attention replica could go on with the answer") from error
                if stream.taken.is_set():
                    logger.warning("request %s goes on elsewhere: %s", request.request_id, error)
                    self._on_failover()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                attempt += 1
        # The replica was lost between its last token and the word that it was the last.
        yield TokenEvent(request.request_id, (), "length")

    async def _ask(
        self, request: GenerationRequest, stream: TokenStream, take_by: float
    ) -> AsyncGenerator[TokenEvent, None]:
        call = asyncio.create_task(self._call(request, stream.number))
        self._calls.add(call)
        call.add_done_callback(lambda done: self._call_ended(done, stream))
        finished = False
        try:
            await self._taken(stream, call, take_by)
            while not finished:
                event = await stream.next()
                finished = event.finish_reason is not None
                yield event
        finally:
            self._receiver.drop(stream)
            if not finished:
                call.cancel()

    async def _taken(self, stream: TokenStream, call: asyncio.Task[None], take_by: float) -> None:
        """Wait until a replica has taken the request on, or ``call`` has ended.

        Raises:
            ReplicaLostError: neither by ``take_by``, in monotonic seconds.
        """
        taken = asyncio.create_task(stream.taken.wait())
        either: set[asyncio.Task[Any]] = {taken, call}
        try:
            await asyncio.wait(either, timeout=take_by - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            taken.cancel()
        if not (stream.taken.is_set() or call.done()):
            raise ReplicaLostError("none took the request in time")

    def _call_ended(self, call: asyncio.Task[None], stream: TokenStream) -> None:
        self._calls.discard(call)
        if call.cancelled():
            return
        error = call.exception()
        if isinstance(error, Exception):
            stream.fail(error)
        else:
            trailing = ReplicaLostError("the replica ended its answer, but not all of it arrived")
            asyncio.get_running_loop().call_later(_GRACE_S, stream.fail, trailing)
