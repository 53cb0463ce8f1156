"""Threads that do one piece of work side by side: parts of it are taken by whoever is free."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Team:
    """The thread that calls, and helpers that rest until it does. Several threads may call at once.

    Args:
        size: threads in all, the caller among them.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._calls: SimpleQueue[_Work | None] = SimpleQueue()
        self._helpers = 0
        self._lock = threading.Lock()

    def do(self, parts: Iterable[T], work: Callable[[Iterator[T]], None]) -> None:
        """``work`` on all of ``parts``: it is called on some threads, the caller's among them, with those that fall to
        each. Returns once all are done.

        Raises:
            Exception: what the first ``work`` raised; parts that nobody had taken by then are left.
        """
        shared = _Shared(parts)
        helpers = min(self._size, len(shared)) - 1
        if helpers <= 0:
            work(shared)
            return
        together = _Work(lambda: work(shared), shared.clear)
        for _ in range(min(helpers, self._have(helpers))):
            self._calls.put(together)
        together.take_part()
        together.end()

    def _have(self, helpers: int) -> int:
        """Start those that are not there yet: most readers never need one. How many there are: fewer, or none, where
        no more threads may be started."""
        with self._lock:
            while self._helpers < helpers:
                # It knows the queue and not the team, so that it ends with that.
                helper = threading.Thread(target=_help, args=(self._calls,), name="team-helper", daemon=True)
                try:
                    helper.start()
                except RuntimeError:
                    break
                self._helpers += 1
                weakref.finalize(self, self._calls.put, None).atexit = False
            return self._helpers


class _Shared(Generic[T]):
    """Parts, each given to one thread."""

    def __init__(self, parts: Iterable[T]) -> None:
        self._parts = deque(parts)
        self.clear = self._parts.clear

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return self._parts.popleft()
        except IndexError:
            raise StopIteration from None


class _Work:
    """What a caller and some helpers do at the same time. A helper that comes when the caller is done does nothing.

    Args:
        give_up: has the others find nothing more to do.
    """

    def __init__(self, body: Callable[[], None], give_up: Callable[[], None]) -> None:
        self._body = body
        self._give_up = give_up
        self._inside = 0
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def take_part(self) -> None:
        with self._changed:
            if self._ended:
                return
            self._inside += 1
        try:
            self._body()
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self._give_up()
            self._error = self._error or error
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def end(self) -> None:
        """Wait for those who have begun; raises what any raised."""
        with self._changed:
            self._ended = True
            self._changed.wait_for(lambda: not self._inside)
        if self._error is not None:
            raise self._error


def _help(calls: SimpleQueue[_Work | None]) -> None:
    while (work := calls.get()) is not None:
        work.take_part()
        del work  # until the next one it would be kept, and what it fills with it
