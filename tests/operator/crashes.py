"""Deaths of the operator after one of its writes, for tests: it is made, and its answer the last thing that is seen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Crash(BaseException):
    """The end of the process; nothing in it may catch this."""


@dataclass
class Calls:
    """Counts writes, and dies after the one of number ``fatal``, once."""

    fatal: int | None = None
    made: int = 0

    def wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(*arguments: Any, **more: Any) -> Any:
            answer = await call(*arguments, **more)
            if arguments[0] == "GET":
                return answer
            self.made += 1
            if self.made == self.fatal:
                raise Crash
            return answer

        return counted


class Counted:
    """``inner``, whose methods of these names are counted."""

    def __init__(self, inner: Any, calls: Calls, *names: str) -> None:
        self._inner, self._calls, self._names = inner, calls, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._calls.wrapped(found) if name in self._names else found


KUBE_WRITES = ("create", "replace", "merge_patch", "apply")
