"""What each client and each request has of a batch, as a share (dominant resource fairness: Ghodsi et al., NSDI 2011).

A share is the larger of two fractions: of the places in the batch and of the tokens of the cache that running answers
take. Pure; used by ``queue`` and ``preemption``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from moe_contract.applications import AttentionConfig
from moe_serving.engine.request import Origin
from moe_serving.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Usage:
    """Running answers, and the tokens of cache that are kept for them."""

    answers: int = 0
    tokens: int = 0

    def with_(self, sequence: Sequence) -> Usage:
        return Usage(self.answers + 1, self.tokens + sequence.size)

    def without(self, sequence: Sequence) -> Usage:
        return Usage(self.answers - 1, self.tokens - sequence.size)

    def share(self, limits: AttentionConfig) -> float:
        """0 to 1; more only after the limits were lowered."""
        return max(self.answers / limits.places, self.tokens / limits.kv_cache_tokens)


@dataclass(slots=True, eq=False)
class RequestShare:
    """The answers of one request that are in one engine.

    Attributes:
        arrival: orders requests.
        waiting, running: in order of arrival.
        waiting_tokens: what the waiting ones ask for.
        begun: one of its answers was in the batch already.
        passed: tokens given to others while its next answer was first and did not fit.
    """

    origin: Origin
    arrival: int
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    usage: Usage = Usage()
    waiting_tokens: int = 0
    begun: bool = False
    passed: int = 0


@dataclass(slots=True, eq=False)
class ClientShare:
    """The requests of one client that are in one engine, by origin."""

    requests: dict[Origin, RequestShare] = field(default_factory=dict)
    usage: Usage = Usage()
