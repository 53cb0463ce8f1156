"""What costs everybody and leads nowhere is left alone for a while, which grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from moe_operator.delays import doubled
from moe_operator.errors import OperatorError

FIRST_SECONDS = 10.0
CAP_SECONDS = 300.0
"""For which one that was mended waits at most until that is noticed."""


@dataclass(slots=True)
class Aside:
    """Of one address, or one object. ``clock`` is monotonic; ``first`` and ``cap`` are seconds."""

    clock: Callable[[], float] = time.monotonic
    first: float = FIRST_SECONDS
    cap: float = CAP_SECONDS
    _why: str = ""
    _until: float = float("-inf")
    _times: int = 0

    @property
    def why(self) -> str | None:
        """In the words of the last time why it is left alone now; None if it is not."""
        return self._why if self.clock() < self._until else None

    @contextmanager
    def around(self, too_much: type[OperatorError]) -> Iterator[None]:
        """Around what is not done while it is left alone, and is left alone once it raises ``too_much``.

        Raises:
            OperatorError: ``too_much``, in the words of the last time, where it is left alone now.
        """
        why = self.why
        if why is not None:
            raise too_much(why)
        try:
            yield
        except too_much as error:
            self.put(str(error))
            raise
        self.clear()

    def put(self, why: str) -> None:
        """Leave it alone, for longer than the last time."""
        self._why = why
        self._until = self.clock() + doubled(self.first, self.cap, self._times)
        self._times += 1

    def clear(self) -> None:
        """It went well."""
        self._until, self._times = float("-inf"), 0
