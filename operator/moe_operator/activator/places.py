"""How much is held at the same time: requests, and bytes of their bodies together; and what of it one deployment may
take, so that there is room for those of others. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MOST_REQUESTS = 100
MOST_BYTES = 64 << 20
MOST_REQUESTS_OF_ONE = MOST_REQUESTS // 4
MOST_BYTES_OF_ONE = MOST_BYTES // 4
MOST_CONNECTIONS_OF_ONE = 64
"""Requests of a deployment that are held, or answered just now: a quarter of the connections that there are."""


class FullError(Exception):
    """There is no room for one more, or for more of one."""


@dataclass(slots=True)
class _Share:
    """What a deployment has taken."""

    connections: int = 0
    requests: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Place:
    """Of one request."""

    _places: Places
    _share: _Share
    _requests: int = 1
    _bytes: int = 0

    def add(self, count: int) -> None:
        """Raises FullError where so many bytes more do not fit."""
        places = self._places
        if places.bytes + count > places.most_bytes or self._share.bytes + count > places.most_bytes_of_one:
            raise FullError
        self._take(0, count)

    def give_back(self, body: bool = True) -> None:
        """To the others, while its answer passes; ``body``: whether that is not kept any more."""
        self._take(-self._requests, -self._bytes if body else 0)

    def _take(self, requests: int, count: int) -> None:
        for each in (self._places, self._share):
            each.requests += requests
            each.bytes += count
        self._requests += requests
        self._bytes += count


@dataclass(slots=True)
class Places:
    """All that there are, and how much of them is taken."""

    most_requests: int = MOST_REQUESTS
    most_bytes: int = MOST_BYTES
    most_requests_of_one: int = MOST_REQUESTS_OF_ONE
    most_bytes_of_one: int = MOST_BYTES_OF_ONE
    requests: int = 0
    bytes: int = 0
    _shares: dict[str, _Share] = field(default_factory=dict)

    @contextmanager
    def take(self, deployment: str) -> Iterator[Place]:
        """One place for a request to it, while inside; raises FullError where there is none."""
        share = self._shares.get(deployment) or _Share()
        full = self.requests >= self.most_requests or share.requests >= self.most_requests_of_one
        if full or share.connections >= MOST_CONNECTIONS_OF_ONE:
            raise FullError
        place = Place(self, share)
        self._shares[deployment] = share
        share.connections += 1
        share.requests += 1
        self.requests += 1
        try:
            yield place
        finally:
            place.give_back()
            share.connections -= 1
            if not share.connections:
                del self._shares[deployment]
