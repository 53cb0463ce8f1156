"""Who waits for a place in the batch, and whose turn it is. Pure: no clock, no thread, and nothing of how the cache is
laid out.

**Order.** Who has the least share of the batch (``shares``) comes first: between clients (API keys), and within a
client between requests, however many answers each asks for; between equals, who came first.

**Passing.** An answer that is first and does not fit lets others pass that would then have no more than it asks for,
until they were given as many tokens as it asks for. Then nobody is admitted before it.

**Preemption** (``preemption``). Answers of who has much go back to the queue for the sake of who has little. They keep
their tokens and their place in the order, and are computed anew.

**Bounds** are on requests of which no answer has been in the batch yet: on their number, and on the tokens that they
ask for. Of both a quarter is kept for clients that have nothing waiting: who asks too much finds the queue full before
the others do.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable
from typing import Protocol

from moe_contract.applications import AttentionConfig
from moe_serving.engine.preemption import Preemption
from moe_serving.engine.sequence import Sequence
from moe_serving.engine.shares import ClientShare, RequestShare, Usage


class Batch(Protocol):
    """Where admitted answers go: the scheduler."""

    def fits(self, sequence: Sequence, without: Collection[Sequence] = ()) -> bool:
        """Whether there is room, or would be if those of ``without`` had left."""
        ...

    def add(self, sequence: Sequence) -> None: ...

    def discard(self, sequence: Sequence) -> None: ...


class FairQueue:
    """All answers of one engine, waiting and running.

    Attributes:
        waiting: number of answers that wait. Any thread may ask.
        preempted: how often an answer had to leave the batch for others.
    """

    def __init__(self, limits: AttentionConfig) -> None:
        self.waiting = 0
        self.preempted = 0
        self._limits = limits
        self._clients: dict[str, ClientShare] = {}
        self._arrivals = 0
        self._changed = False

    @property
    def waiting_tokens(self) -> int:
        """What all answers that wait ask for."""
        return sum(request.waiting_tokens for request in self._requests())

    @property
    def tokens_before_begin(self) -> int:
        """Of the waiting ones, those of requests that have not begun: what a new request waits for."""
        return sum(request.waiting_tokens for request in self._requests() if not request.begun)

    def offer(self, sequence: Sequence) -> bool:
        """Take an answer; False when the queue is full. Always taken is one that goes on with what its client has been
        told, or whose request has begun.
        """
        request = self._request_of(sequence)
        promised = sequence.request.resumed or (request is not None and request.begun)
        if not promised and self._full(sequence):
            return False
        self._arrivals += 1
        sequence.arrival = self._arrivals
        client = self._clients.setdefault(sequence.origin.client, ClientShare())
        request = client.requests.setdefault(sequence.origin, RequestShare(sequence.origin, sequence.arrival))
        request.begun = request.begun or sequence.request.resumed
        self._wait(request, sequence)
        return True

    def discard(self, sequence: Sequence) -> None:
        """Finished, failed or cancelled: forget it. Twice is once."""
        request = self._request_of(sequence)
        if request is None:
            return
        client = self._clients[sequence.origin.client]
        if sequence in request.running:
            self._stop(client, request, sequence)
        elif sequence in request.waiting:
            self._leave(request, sequence)
        if not (request.waiting or request.running):
            del client.requests[sequence.origin]
            if not client.requests:
                del self._clients[sequence.origin.client]

    def reconfigure(self, limits: AttentionConfig) -> list[Sequence]:
        """Take new limits; the waiting answers that can never fit any more are forgotten and returned."""
        self._limits = limits
        self._changed = True
        waiting = [sequence for request in self._requests() for sequence in request.waiting]
        refused = [sequence for sequence in waiting if sequence.reservation > limits.kv_cache_tokens]
        for sequence in refused:
            self.discard(sequence)
        return refused

    def admit(self, batch: Batch) -> None:
        """Move answers into ``batch``, and out of it for the sake of others, until all is as it should be."""
        while self._changed:
            self._changed = self._admit_one(batch)

    def _admit_one(self, batch: Batch) -> bool:
        """Admit the answer whose turn it is; False when there is none that can be."""
        first: RequestShare | None = None
        preemption = Preemption(self._clients, self._limits)
        for request in self._in_order():
            sequence = request.waiting[0]
            if first is not None and not self._may_pass(sequence, first):
                continue
            victims: list[Sequence] | None = []
            if not batch.fits(sequence):
                victims = _enough(preemption.candidates(sequence), sequence, batch)
            if victims is None:
                first = first or request
                continue
            for victim in victims:
                batch.discard(victim)
                self._put_back(victim)
            if first is not None:
                first.passed += sequence.size
            self._start(request, sequence)
            batch.add(sequence)
            return True
        return False

    def _in_order(self) -> list[RequestShare]:
        """Requests with waiting answers, whose turn it is first."""

        def claim(request: RequestShare) -> tuple[float, float, int]:
            client = self._clients[request.origin.client]
            return client.usage.share(self._limits), request.usage.share(self._limits), request.arrival

        return sorted((request for request in self._requests() if request.waiting), key=claim)

    def _may_pass(self, sequence: Sequence, first: RequestShare) -> bool:
        wanted, client = first.waiting[0], self._clients[sequence.origin.client]
        same = sequence.origin.client == first.origin.client
        has = client.requests[sequence.origin].usage if same else client.usage
        modest = has.with_(sequence).share(self._limits) <= Usage().with_(wanted).share(self._limits)
        return modest and first.passed + sequence.size <= wanted.size

    def _full(self, sequence: Sequence) -> bool:
        """Whether the bounds leave no room for an answer of a request that has not begun."""
        outside = [request for request in self._requests() if not request.begun and request.origin != sequence.origin]
        tokens = sequence.size + sum(request.waiting_tokens for request in outside)
        own = self._request_of(sequence)
        if own is not None:
            tokens += own.waiting_tokens
        greedy = sequence.origin.client and any(r.origin.client == sequence.origin.client for r in outside)
        part = _PART_OF_ONE if greedy else 1.0
        limits = self._limits
        return len(outside) + 1 > limits.queue_requests * part or tokens > limits.queue_tokens * part

    def _requests(self) -> Iterable[RequestShare]:
        return (request for client in self._clients.values() for request in client.requests.values())

    def _request_of(self, sequence: Sequence) -> RequestShare | None:
        client = self._clients.get(sequence.origin.client)
        return client.requests.get(sequence.origin) if client else None

    def _wait(self, request: RequestShare, sequence: Sequence) -> None:
        insort(request.waiting, sequence, key=lambda waiting: waiting.arrival)
        request.waiting_tokens += sequence.size
        self.waiting += 1
        self._changed = True

    def _leave(self, request: RequestShare, sequence: Sequence) -> None:
        request.waiting.remove(sequence)
        request.waiting_tokens -= sequence.size
        request.passed = 0
        self.waiting -= 1
        self._changed = True

    def _start(self, request: RequestShare, sequence: Sequence) -> None:
        self._leave(request, sequence)
        client = self._clients[sequence.origin.client]
        insort(request.running, sequence, key=lambda running: running.arrival)
        request.begun = True
        request.usage, client.usage = request.usage.with_(sequence), client.usage.with_(sequence)

    def _stop(self, client: ClientShare, request: RequestShare, sequence: Sequence) -> None:
        request.running.remove(sequence)
        request.usage, client.usage = request.usage.without(sequence), client.usage.without(sequence)
        self._changed = True

    def _put_back(self, sequence: Sequence) -> None:
        client = self._clients[sequence.origin.client]
        request = client.requests[sequence.origin]
        self._stop(client, request, sequence)
        sequence.computed = 0
        self.preempted += 1
        self._wait(request, sequence)


_PART_OF_ONE = 0.75
"""Of the bounds, for a client that has something waiting already. Where no keys are asked for, clients are not told
apart, and this does not apply."""


def _enough(candidates: Iterable[Sequence], sequence: Sequence, batch: Batch) -> list[Sequence] | None:
    """The first of ``candidates`` without which ``sequence`` fits; None when it does not fit without all of them."""
    victims: list[Sequence] = []
    for victim in candidates:
        victims.append(victim)
        if batch.fits(sequence, victims):
            return victims
    return None
