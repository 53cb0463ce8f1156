"""Asks an engine in this process, and notes what comes as the client of a server does."""

from __future__ import annotations

import asyncio
import itertools
import time

from benchmarks.rebalancing.spans import Tick
from benchmarks.serving.client import LIMIT_S, Ask, Outcome, Verdict
from moe_serving.engine.engine import Engine
from moe_serving.engine.errors import EngineStoppedError, RequestRefusedError
from moe_serving.engine.request import GenerationRequest, Sampling, TokenEvent


class EngineClient:
    """Implements ``serving.client.Asked``.

    Attributes:
        ticks: of all answers, in order of time.
    """

    def __init__(self, engine: Engine) -> None:
        self.ticks: list[Tick] = []
        self._engine = engine
        self._numbers = itertools.count()

    async def ask(self, ask: Ask) -> Outcome:
        outcome, ended = Outcome(ask, time.monotonic()), asyncio.Event()
        loop, last = asyncio.get_running_loop(), time.monotonic()

        def take(event: TokenEvent) -> None:
            """On the engine's thread."""
            nonlocal last
            if event.token_ids:
                gaps = len(outcome.gaps)
                last = outcome.note(event.token_ids, len(event.token_ids), last)
                self.ticks.append(
                    Tick(last, outcome.gaps[-1] if len(outcome.gaps) > gaps else None, len(event.token_ids))
                )
            if event.finish_reason is not None:
                outcome.verdict, outcome.why = _verdict(event), event.error or ""
                loop.call_soon_threadsafe(ended.set)

        name = f"stream-{next(self._numbers)}"
        sampling = Sampling(max_tokens=ask.max_tokens, ignore_eos=True)
        try:
            self._engine.submit(GenerationRequest(name, ask.prompt, sampling), take)
            await asyncio.wait_for(ended.wait(), LIMIT_S)
        except TimeoutError:
            self._engine.cancel(name)
            outcome.verdict = Verdict.FAILED
            outcome.why = f"{len(outcome.token_ids)} of {ask.max_tokens} tokens within {LIMIT_S:g} s"
        except (RequestRefusedError, EngineStoppedError) as error:
            outcome.verdict, outcome.why = Verdict.FAILED, f"{type(error).__name__}: {error}"
        outcome.ended = time.monotonic()
        return outcome


def _verdict(event: TokenEvent) -> Verdict:
    if event.retry_after_s is not None:
        return Verdict.REFUSED
    return Verdict.FAILED if event.finish_reason == "error" else Verdict.COMPLETE
