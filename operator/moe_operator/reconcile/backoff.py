"""Growing, jittered delays between attempts. Pure but for the random numbers it is given."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from moe_operator.delays import doubled


@dataclass(slots=True)
class Backoff:
    """Delays by key: ``first``, then doubled up to ``cap``, each shortened by a random part of up to ``jitter``.

    Attributes:
        first, cap: seconds. The cap bounds how long a Ray that comes back waits to be noticed.
        jitter: 0 to 1; it spreads keys that failed together.
    """

    first: float = 0.5
    cap: float = 10.0
    jitter: float = 0.3
    rng: random.Random = field(default_factory=random.Random)
    _failures: dict[str, int] = field(default_factory=dict)

    def next_delay(self, key: str, cap: float | None = None) -> float:
        """Seconds to wait after another failure of ``key``; ``cap`` in place of the usual one."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = doubled(self.first, self.cap if cap is None else cap, failures)
        return delay * (1.0 - self.jitter * self.rng.random())

    def forget(self, key: str) -> None:
        """``key`` succeeded, or is gone."""
        self._failures.pop(key, None)
