"""What a watch in another thread tells the loop: the last event of each object, however fast they come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

from moe_operator.kube.api import Json

logger = logging.getLogger(__name__)


class Inbox:
    """Bounded by the number of objects: what was not taken yet is replaced by what happened to the same object since.

    Args:
        loop: where ``take`` is called.
        take: gets the type of an event, and the object as it then was.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, take: Callable[[str | None, Json], None]) -> None:
        self._loop = loop
        self._take = take
        self._lock = threading.Lock()
        self._events: dict[tuple[str, str, str], tuple[str | None, Json]] = {}

    def put(self, kind: str | None, live: Json) -> None:
        """From any thread; of one object in the order in which it happened. Does nothing once the loop is closed."""
        metadata = live["metadata"]
        with self._lock:
            first = not self._events
            # By uid too: a new object of the same name must not be lost to the deletion of the former one.
            self._events[metadata["namespace"], metadata["name"], metadata.get("uid", "")] = (kind, live)
        if first:
            with contextlib.suppress(RuntimeError):  # closed: nobody is there any more to be told
                self._loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        with self._lock:
            events, self._events = self._events, {}
        for kind, live in events.values():
            try:
                self._take(kind, live)
            except Exception:  # the others must not be lost to a defect shown by one
                logger.exception("an event was not taken")
