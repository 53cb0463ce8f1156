"""Where the time of one thread goes: sections inside each other, of which each counts what the inner ones leave."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any


class Sections:
    """For calls of one thread; nothing is counted outside a root.

    Args:
        clock: monotonic seconds.

    Attributes:
        seconds, calls: by section.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._clock = clock
        self._open: list[str] = []
        self._since = 0.0

    def root(self, name: str, call: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        """``call``, as the section that all others are in; where ``counts`` of its arguments says no, none is there."""

        def run(*arguments: Any, **named: Any) -> Any:
            if not counts(*arguments, **named):
                return call(*arguments, **named)
            return self._run(name, call, *arguments, **named)

        return run

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, as a section."""

        def run(*arguments: Any, **named: Any) -> Any:
            if not self._open:
                return call(*arguments, **named)
            return self._run(name, call, *arguments, **named)

        return run

    def _run(self, name: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self._switch()
        self._open.append(name)
        self.calls[name] += 1
        try:
            return call(*arguments, **named)
        finally:
            self._switch()
            self._open.pop()

    def _switch(self) -> None:
        """What has passed was of the innermost section."""
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
