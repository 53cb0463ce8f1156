"""Which running answers may go back to the queue so that another one fits. Pure.

An answer may push out others where its client would even with it have a smaller share than another client has now; the
same within a client between its requests. So the largest share falls with every preemption, and nothing is swapped
back. Nobody loses the last answer that runs, neither a client nor, to its own client, a request; what goes came last.
So the oldest answer of a client always runs on to its end. So does what a cache that was made smaller meanwhile could
not take again: in the queue it would wait for ever, and others behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from moe_contract.applications import AttentionConfig
from moe_serving.engine.sequence import Sequence
from moe_serving.engine.shares import ClientShare, RequestShare, Usage


class Preemption:
    """Looks at the shares once, for all who wait: only the largest ones can lose anything."""

    def __init__(self, clients: Mapping[str, ClientShare], limits: AttentionConfig) -> None:
        self._clients = clients
        self._limits = limits
        self._heaviest = sorted(clients, key=lambda name: self._share(clients[name].usage), reverse=True)[:2]
        self._largest: dict[str, list[RequestShare]] = {}

    def candidates(self, sequence: Sequence) -> Iterator[Sequence]:
        """Answers that may go for ``sequence``, each on the condition that all before it do."""
        client, request = self._owners(sequence)
        for name in self._heaviest:
            other = self._clients[name]
            if other is not client:
                yield from self._newest(other.requests.values(), other.usage, client.usage.with_(sequence))
                break
        for largest in self._largest_of(sequence.origin.client):
            if largest is not request:
                yield from self._newest([largest], largest.usage, request.usage.with_(sequence))
                break

    def _owners(self, sequence: Sequence) -> tuple[ClientShare, RequestShare]:
        client = self._clients[sequence.origin.client]
        return client, client.requests[sequence.origin]

    def _largest_of(self, client: str) -> list[RequestShare]:
        if client not in self._largest:
            requests = self._clients[client].requests.values()
            ranked = sorted(requests, key=lambda request: (self._share(request.usage), request.arrival), reverse=True)
            self._largest[client] = ranked[:2]
        return self._largest[client]

    def _newest(self, requests: Iterable[RequestShare], usage: Usage, after: Usage) -> Iterator[Sequence]:
        """Of ``requests``, whose owner has ``usage``, while that is more than ``after`` and not the last one."""
        if usage.answers < 2 or self._share(usage) <= self._share(after):
            return
        # What cannot come again lies at the bottom of its stack.
        stacks = [(request.arrival, sorted(request.running, key=self._comes_again)) for request in requests]
        while usage.answers > 1 and self._share(usage) > self._share(after):
            stacks = [stack for stack in stacks if stack[1] and self._comes_again(stack[1][-1])]
            if not stacks:
                return
            _, left = max(stacks, key=_goes_first)
            victim = left.pop()
            usage = usage.without(victim)
            yield victim

    def _comes_again(self, sequence: Sequence) -> bool:
        return sequence.reservation <= self._limits.kv_cache_tokens

    def _share(self, usage: Usage) -> float:
        return usage.share(self._limits)


def _goes_first(stack: tuple[int, list[Sequence]]) -> tuple[bool, int, int]:
    """Requests that keep an answer, the largest of them first; then those with their last one, the newest first."""
    arrival, left = stack
    several = len(left) > 1
    return several, sum(sequence.size for sequence in left) if several else 0, arrival
