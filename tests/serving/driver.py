"""Drives an engine as a client would: submit, collect events, wait for ends with a bound."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from moe_contract.applications import AttentionConfig
from moe_serving.engine.engine import Engine
from moe_serving.engine.experts import ExpertsClient
from moe_serving.engine.local_experts import LocalExperts
from moe_serving.engine.pace import StepListener, nobody
from moe_serving.engine.request import GenerationRequest, Origin, Sampling, TokenEvent

WAIT_S = 120.0

Tokens = tuple[int, ...]


class Answer:
    """The events of one request."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.events: list[TokenEvent] = []
        self._changed = threading.Condition()

    def take(self, event: TokenEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    @property
    def token_ids(self) -> Tokens:
        return tuple(itertools.chain.from_iterable(event.token_ids for event in self.events))

    @property
    def finish_reason(self) -> str | None:
        return self.events[-1].finish_reason if self.events else None

    @property
    def error(self) -> str | None:
        return self.events[-1].error if self.events else None

    def wait(self, tokens: int | None = None) -> Answer:
        """Until it is finished, or has ``tokens`` tokens."""

        def enough() -> bool:
            return self.finish_reason is not None or (tokens is not None and len(self.token_ids) >= tokens)

        with self._changed:
            if not self._changed.wait_for(enough, WAIT_S):
                raise TimeoutError(f"{self.request.request_id} has {len(self.token_ids)} tokens after {WAIT_S} s")
        return self


_ids = itertools.count()


def ask(
    engine: Engine,
    prompt: Sequence[int],
    sampling: Sampling,
    emitted: Sequence[int] = (),
    name: str | None = None,
    origin: Origin | None = None,
) -> Answer:
    request = GenerationRequest(name or f"request-{next(_ids)}", tuple(prompt), sampling, tuple(emitted), origin)
    answer = Answer(request)
    engine.submit(request, answer.take)
    return answer


def greedy(tokens: int) -> Sampling:
    return Sampling(max_tokens=tokens, ignore_eos=True)


def complete(engine: Engine, prompts: Sequence[Sequence[int]], sampling: Sampling, at_once: int = 8) -> list[Tokens]:
    """Answers to all prompts, ``at_once`` of them submitted together."""
    answers: list[Tokens] = []
    for begin in range(0, len(prompts), at_once):
        waiting = [ask(engine, prompt, sampling) for prompt in prompts[begin : begin + at_once]]
        for answer in waiting:
            answer.wait()
            assert answer.error is None, answer.error
        answers += [answer.token_ids for answer in waiting]
    return answers


@contextmanager
def running_engine(
    path: Path,
    limits: AttentionConfig | None = None,
    experts: ExpertsClient | None = None,
    on_step: StepListener = nobody,
) -> Iterator[Engine]:
    """An engine in float32 on the CPU; the experts are local unless given."""
    client = experts or LocalExperts(path, "float32", "cpu")
    engine = Engine.load(path, "float32", "cpu", client, limits or AttentionConfig(), on_step=on_step)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
