"""The engine of one attention replica: a thread that schedules, runs and hands out tokens, step by step.

Requests come from other threads (``submit``, ``cancel``); their tokens leave by callback on the engine thread. Requests
join and leave between any two steps. Used by the attention deployment, which streams the tokens on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from moe_contract.applications import AttentionConfig
from moe_serving.engine.admission import check_request
from moe_serving.engine.errors import EngineStoppedError, RequestRefusedError
from moe_serving.engine.experts import ExpertsClient
from moe_serving.engine.life import SignsOfLife
from moe_serving.engine.model import AttentionModel, load_attention_model
from moe_serving.engine.pace import Pace, StepListener, nobody
from moe_serving.engine.queue import FairQueue
from moe_serving.engine.request import EngineStats, EventCallback, GenerationRequest, TokenEvent
from moe_serving.engine.runner import ModelRunner
from moe_serving.engine.scheduler import Chunk, Scheduler, take_tokens
from moe_serving.engine.sequence import Sequence
from moe_serving.engine.throughput import Throughput
from moe_serving.errors import MoEServingError
from moe_serving.threads import SupervisedThread

_UNFORESEEN = "a step of the model failed for a reason that nobody foresaw; the log of its attention replica says which"
_FULL = "more requests wait than the queue of a replica takes"

_log = logging.getLogger(__name__)


class Engine:
    """Continuous batching over one model: ``load``, ``start``, then ``submit`` and ``cancel``, at last ``stop``.

    The engine thread alone touches queue, scheduler and model; other threads leave their wishes in ``_inbox``.
    """

    def __init__(
        self,
        model: AttentionModel,
        limits: AttentionConfig,
        life: SignsOfLife | None = None,
        on_step: StepListener = nobody,
    ) -> None:
        self._model = model
        self._limits = limits = limits.on(model.device.type)
        self._queue = FairQueue(limits)
        self._scheduler = Scheduler(limits)
        self._runner = ModelRunner(model, self._scheduler.blocks.end)
        self._throughput = Throughput()
        self._pace = Pace()
        self._on_step = on_step
        self._wake = threading.Condition()
        # Guarded by _wake: requests that may still get events, wishes of other threads, whether to end.
        self._active: dict[str, tuple[Sequence, EventCallback]] = {}
        self._inbox: list[Callable[[], None]] = []
        self._stopping = False
        self._thread = SupervisedThread("engine", self._loop)
        self._steps = 0
        self._problem: str | None = None
        self._life = life or SignsOfLife()

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: str,
        device: str,
        experts: ExpertsClient,
        limits: AttentionConfig,
        life: SignsOfLife | None = None,
        on_step: StepListener = nobody,
    ) -> Engine:
        """Load the checkpoint at ``path`` without its experts; see ``load_attention_model``.

        Args:
            life: where ``experts`` gives signs too, if it does.
            on_step: told of each step.

        Raises:
            ModelError: the checkpoint cannot be served.
        """
        return cls(load_attention_model(path, dtype, device, experts), limits, life, on_step)

    @property
    def model(self) -> AttentionModel:
        return self._model

    @property
    def alive(self) -> bool:
        """Whether steps are being made; False before ``start``, from ``stop`` on and from a fault of the engine on."""
        return self._thread.is_alive() and not self._stopping

    @property
    def problem(self) -> str | None:
        """Why the newest limits are not in force as they are; None while they are. Any thread may ask."""
        return self._problem

    @property
    def overdue_s(self) -> float:
        """Seconds for which the engine has been stuck; see ``SignsOfLife``."""
        return self._life.overdue_s

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """End after the step that runs now; requests not finished get an error event.

        Raises:
            TimeoutError: the step did not end in time.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the engine's step did not end within {timeout_s:g} s")

    def submit(self, request: GenerationRequest, on_event: EventCallback) -> None:
        """Queue a request; it joins the batch when its turn comes. Thread-safe.

        Its first event says that it was taken on, or is an error with ``retry_after_s``: the queue is full.

        Raises:
            RequestRefusedError: this engine can never serve it.
            EngineStoppedError: the engine is stopping.
        """
        sequence = Sequence(request)
        with self._wake:
            check_request(request, self._model.vocabulary, self._model.max_context, self._limits)
            if self._stopping:
                raise EngineStoppedError("the engine is stopping; send the request to another replica")
            if request.request_id in self._active:
                raise RequestRefusedError(f"request_id {request.request_id!r} is in use by an unfinished request")
            self._active[request.request_id] = sequence, on_event
            self._inbox.append(lambda: self._enqueue(sequence))
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """Drop a request before the next step and free its cache. Unknown ids are ignored. Thread-safe.

        No event follows, but one may be on its way.
        """
        with self._wake:
            entry = self._active.pop(request_id, None)
            if entry is not None:
                sequence = entry[0]
                self._inbox.append(lambda: self._discard(sequence))
                self._wake.notify()

    def reconfigure(self, limits: AttentionConfig) -> None:
        """Take new limits before the next step; waiting requests that can never fit them get an error event. A larger
        cache than the device has memory for is not taken: ``problem`` says so.
        """
        limits = limits.on(self._model.device.type)
        with self._wake:
            self._limits = limits
            self._inbox.append(lambda: self._apply(limits))
            self._wake.notify()

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=self._queue.waiting,
            kv_tokens_used=self._scheduler.blocks.used,
            kv_tokens_limit=self._scheduler.blocks.limit,
            steps=self._steps,
            silence_s=self._life.silence_s,
        )

    def _loop(self) -> None:
        try:
            while self._take_inbox():
                self._queue.admit(self._scheduler)
                chunks = self._scheduler.next_step()
                if chunks:
                    self._step(chunks)
        finally:
            # Also after a fault of the engine itself: nobody must wait for tokens that never come.
            with self._wake:
                self._stopping = True
                remaining = [sequence for sequence, _ in self._active.values()]
            self._fail(remaining, "the replica is stopping")

    def _take_inbox(self) -> bool:
        """Do what other threads asked for, waiting for it when there is nothing else to do; False to end."""
        with self._wake:
            while not (self._stopping or self._inbox or self._scheduler.busy or self._queue.waiting):
                self._pace.failed()
                self._life.rest()
                self._wake.wait()
            todo, self._inbox = self._inbox, []
            stopping = self._stopping
        self._life.give()
        for do in todo:
            do()
            # One by one: whoever finds room at once is not in the way of those behind it.
            self._queue.admit(self._scheduler)
        return not stopping

    def _enqueue(self, sequence: Sequence) -> None:
        reason = sequence.finish_reason(self._model.end_token_ids)
        if reason is not None:
            # The replica that began the answer died after its last token, before it could say so.
            self._emit(sequence, TokenEvent(sequence.request_id, (), reason))
        elif sequence.reservation > self._scheduler.blocks.limit:
            # Taken on for a larger cache, which there turned out to be no memory for.
            self._fail([sequence], self._never_fits())
        elif self._queue.offer(sequence):
            self._emit(sequence, TokenEvent(sequence.request_id))
        else:
            again = self._throughput.wait_s(self._queue.tokens_before_begin)
            self._emit(sequence, TokenEvent(sequence.request_id, (), "error", _FULL, again))

    def _discard(self, sequence: Sequence) -> None:
        self._queue.discard(sequence)
        self._scheduler.discard(sequence)

    def _apply(self, limits: AttentionConfig) -> None:
        wanted, former = limits, self._scheduler.blocks.limit
        self._scheduler.reconfigure(limits)
        self._runner.cache.fit(self._scheduler.blocks.end)
        self._problem = None
        if self._runner.cache.rows < self._scheduler.blocks.end:
            limits = limits.model_copy(update={"kv_cache_tokens": former})
            self._scheduler.reconfigure(limits)
            self._problem = (
                f"kv_cache_tokens stays {former}: the device has no memory for {wanted.kv_cache_tokens} beside them"
            )
            with self._wake:
                if self._limits is wanted:
                    self._limits = limits
        refused = self._queue.reconfigure(limits)
        self._fail(refused, self._never_fits())

    def _never_fits(self) -> str:
        return f"kv_cache_tokens is {self._scheduler.blocks.limit} now: the request cannot fit any more"

    def _step(self, chunks: list[Chunk]) -> None:
        begin = time.monotonic()
        self._life.begin_step(sum(chunk.count for chunk in chunks))
        self._runner.cache.fit(self._scheduler.blocks.end)
        try:
            tokens = self._runner.run(chunks)
            self._life.end_step()
        except Exception as error:  # noqa: BLE001 - no request, and no absence of experts, may end the others' engine
            _log.warning("a step of %d sequences failed", len(chunks), exc_info=error)
            # Our own errors are written to be read by clients; what others say may be anything.
            told = str(error) if isinstance(error, MoEServingError) else _UNFORESEEN
            self._pace.failed()
            self._fail([chunk.sequence for chunk in chunks], told)
        else:
            self._postprocess(chunks, tokens)
        self._throughput.busy(time.monotonic() - begin)
        self._steps += 1

    def _postprocess(self, chunks: list[Chunk], tokens: Iterable[int | None]) -> None:
        """Take the step's tokens into their sequences, let finished ones go, then tell."""
        events: list[tuple[Sequence, TokenEvent]] = []
        grown, stuck = take_tokens(chunks, tokens)
        self._on_step(sum(chunk.count for chunk in chunks), *self._pace.step(grown, time.monotonic()))
        for sequence in grown:
            reason = sequence.finish_reason(self._model.end_token_ids)
            events.append((sequence, TokenEvent(sequence.request_id, (sequence.token_ids[-1],), reason)))
            if reason is not None:
                self._throughput.done(sequence.size)
                self._discard(sequence)
        for sequence, event in events:
            self._emit(sequence, event)
        self._fail(stuck, "the model computed logits that are not finite; are its weights damaged?")

    def _fail(self, sequences: Iterable[Sequence], error: str) -> None:
        for sequence in sequences:
            self._discard(sequence)
            self._emit(sequence, TokenEvent(sequence.request_id, (), "error", error))

    def _emit(self, sequence: Sequence, event: TokenEvent) -> None:
        with self._wake:
            owner, on_event = self._active.get(sequence.request_id, (None, None))
            if on_event is None or owner is not sequence:
                return  # cancelled meanwhile; its id may already be another request's
            if event.finish_reason is not None:
                del self._active[sequence.request_id]
        try:
            on_event(event)
        except Exception as error:  # noqa: BLE001 - a listener that fails loses its own request only
            _log.warning("the listener of request %s failed", sequence.request_id, exc_info=error)
            self.cancel(sequence.request_id)
