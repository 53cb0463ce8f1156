"""What is asked of an engine and what it answers. Plain data without torch: the api and the wire use it too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MIN_PENALTY, MAX_PENALTY = 0.01, 100
"""Of ``repetition_penalty``: beyond them logits are no numbers any more."""

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_tokens: bound on the tokens of the answer, those of an earlier replica (``emitted_ids``) included.
        temperature: 0, or next to it, takes the most likely token.
        top_k: keep this many of the likeliest tokens, and those as likely as the last of them; 0 keeps all.
        top_p: keep the smallest set of tokens whose probabilities reach this sum; in (0, 1].
        min_p: keep tokens at least this times as likely as the likeliest; in [0, 1].
        repetition_penalty: makes the tokens of the prompt and of the answer so far less likely if above 1, and the
            choice of the most likely one counts it too; above 0.
        seed: with a token's position in the answer and its id it determines the noise of sampling, on every replica.
        stop_token_ids: end the answer, beside the model's own end-of-sequence tokens.
        ignore_eos: the model's own end-of-sequence tokens do not end the answer.
    """

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom an answer is for: what shares are counted by.

    Attributes:
        client: tells API keys apart; empty where none is asked for.
        request: the HTTP request, which may ask for many answers.
    """

    client: str
    request: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt, and the part of its answer that a client already has when another replica began it.

    Attributes:
        request_id: unique among the requests of one engine.
        prompt_ids: at least one token.
        emitted_ids: tokens of the answer already sent; generation goes on behind them as if nothing had happened.
        origin: whom it is for; None for nobody in particular.
        resumed: another replica had taken it on: a full queue does not turn it away.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    emitted_ids: tuple[int, ...] = ()
    origin: Origin | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """New tokens of one request. The first event of all has none: it says that the request was taken on.

    Attributes:
        token_ids: in order; with ``finish_reason`` "stop" the last one is the stop token itself, which is no text.
        finish_reason: None while the answer goes on; no event follows one that has a reason.
        error: why, in words, when ``finish_reason`` is "error".
        retry_after_s: with such an error: the queue is full, and may not be after so many seconds.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None
    retry_after_s: int | None = None


EventCallback = Callable[[TokenEvent], None]
"""Called on the engine thread, so it must not block; all events of a step come in one go at its end."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A glance at the engine, cheap enough for every probe.

    Attributes:
        running: requests whose keys and values are held.
        waiting: requests that wait for a place in the batch or in the cache.
        kv_tokens_used: tokens of cache reserved by the running ones.
        kv_tokens_limit: the bound of that.
        steps: model steps since the start.
        silence_s: seconds since the engine's last sign of life; 0 while it has nothing to do. Large means stuck.
    """

    running: int
    waiting: int
    kv_tokens_used: int
    kv_tokens_limit: int
    steps: int
    silence_s: float
