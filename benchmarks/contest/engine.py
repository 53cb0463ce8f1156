"""Our engine, whoever computes its experts."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter

from benchmarks.contest.runs import WARM_UP_TOKENS, Run, Setting, Tokens
from moe_serving.engine.engine import Engine
from moe_serving.engine.experts import ExpertsClient
from moe_serving.engine.pace import StepListener, nobody
from moe_serving.engine.request import GenerationRequest, Sampling, TokenEvent
from moe_serving.errors import MoEServingError

LIMIT_S = 1800.0


@contextmanager
def running(setting: Setting, experts: ExpertsClient, on_step: StepListener = nobody) -> Iterator[EngineRunner]:
    """An engine on the CPU with room for the largest batch."""
    engine = Engine.load(setting.model, setting.dtype, "cpu", experts, setting.limits, on_step=on_step)
    engine.start()
    try:
        yield EngineRunner(engine)
    finally:
        engine.stop()


class EngineRunner:
    """Asks an engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def warm_up(self, prompts: Sequence[Tokens]) -> str:
        self.run(prompts, WARM_UP_TOKENS)
        return ""

    def run(self, prompts: Sequence[Tokens], tokens: int) -> Run:
        return _Batch(self.engine, prompts, tokens).run()


class _Batch:
    """Requests that join the engine's batch in one step."""

    _numbers = itertools.count()

    def __init__(self, engine: Engine, prompts: Sequence[Tokens], tokens: int) -> None:
        self._engine = engine
        self._prompts = prompts
        self._sampling = Sampling(max_tokens=tokens, ignore_eos=True)
        self._ids: list[list[int]] = [[] for _ in prompts]
        self._times: list[list[float]] = [[] for _ in prompts]
        self._left = len(prompts)
        self._begin = 0.0
        self._problem: str | None = None
        self._over = threading.Event()

    def run(self) -> Run:
        """
        Raises:
            RuntimeError, TimeoutError: a request has failed; the answers did not come.
        """
        opening = GenerationRequest(self._name(), self._prompts[0][:1], Sampling(max_tokens=1, ignore_eos=True))
        self._engine.submit(opening, self._open)
        if not self._over.wait(LIMIT_S):
            raise TimeoutError(f"waited {LIMIT_S:g} s for {self._left} of {len(self._prompts)} answers of the engine")
        if self._problem is not None:
            raise RuntimeError(f"the engine: {self._problem}")
        return Run.of(self._begin, self._times, self._ids)

    def _open(self, event: TokenEvent) -> None:
        """On the engine's thread, between two steps: what is asked for now is all in the next one."""
        if event.finish_reason is None:
            return
        self._begin = perf_counter()
        try:
            for number, prompt in enumerate(self._prompts):
                request = GenerationRequest(self._name(), prompt, self._sampling)
                self._engine.submit(request, partial(self._take, number))
        except MoEServingError as error:
            self._end(str(error))

    def _take(self, number: int, event: TokenEvent) -> None:
        now = perf_counter()
        self._ids[number] += event.token_ids
        self._times[number] += [now] * len(event.token_ids)
        if event.error is not None:
            self._end(event.error)
        elif event.finish_reason is not None:
            self._left -= 1
            if not self._left:
                self._over.set()

    def _end(self, problem: str) -> None:
        self._problem = problem
        self._over.set()

    def _name(self) -> str:
        return f"run-{next(self._numbers)}"
