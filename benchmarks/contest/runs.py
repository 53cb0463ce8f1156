"""What contestants are told, and what they tell. Light: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from moe_contract.applications import BATCH_TOKENS, QUEUE_REQUESTS, QUEUE_TOKENS, AttentionConfig

Tokens = tuple[int, ...]
Dtype = Literal["float32", "bfloat16"]

WARM_UP_TOKENS = 4
"""Of an answer that nobody times."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Attributes:
    model: the checkpoint.
    shards: of those contestants that have some.
    batch: the largest.
    prompt, tokens: of each sequence, asked and answered.
    """

    model: Path
    dtype: Dtype
    shards: int
    batch: int
    prompt: int
    tokens: int

    @property
    def limits(self) -> AttentionConfig:
        """Of our engine: all sequences run together, and all prompts are computed in one step, as in a static batch."""
        held = self.batch * (self.prompt + self.tokens)
        return AttentionConfig(
            max_batch_tokens=max(BATCH_TOKENS, self.batch * self.prompt),
            max_running=self.batch,
            kv_cache_tokens=held + self.prompt + self.tokens,
            queue_requests=max(QUEUE_REQUESTS, self.batch),
            queue_tokens=max(QUEUE_TOKENS, held),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """One batch, from prompts to the last token.

    Attributes:
        first_s: seconds from the question to the first token of the last sequence that got one: the prefill.
        later_s: seconds from there to the last token of all: the decode.
        later: tokens that came in these.
        ids: the answers.
    """

    first_s: float
    later_s: float
    later: int
    ids: tuple[Tokens, ...]

    @classmethod
    def of(cls, begin: float, times: Sequence[Sequence[float]], ids: Sequence[Sequence[int]]) -> Run:
        """
        Args:
            begin: when it was asked.
            times: when each token of each sequence came, by the same clock.
        """
        first = max(each[0] for each in times)
        later = [moment for each in times for moment in each if moment > first]
        told = tuple(tuple(answer) for answer in ids)
        return cls(first - begin, max(later, default=first) - first, len(later), told)


class Runner(Protocol):
    """A contestant that is ready."""

    def warm_up(self, prompts: Sequence[Tokens]) -> str:
        """Run untimed, until it is as fast as it gets with such a batch; returns how it runs, in words."""
        ...

    def run(self, prompts: Sequence[Tokens], tokens: int) -> Run:
        """Answer all prompts, which are of one length, with ``tokens`` greedy tokens each; no token ends an answer."""
        ...
