"""Threads that do not die unheard."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from moe_serving.errors import MoEServingError

logger = logging.getLogger(__name__)


class SupervisedThread(threading.Thread):
    """A daemon thread; an exception that ends it is logged, and kept for whoever reports or checks health.

    Attributes:
        failure: why it has ended, in words; None while it runs, and where it was meant to end.
    """

    def __init__(self, name: str, body: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.failure: str | None = None
        self._body = body

    def run(self) -> None:
        try:
            self._body()
        except BaseException as error:
            self.failure = f"thread {self.name} has ended: {in_words(error)}"
            logger.critical(self.failure, exc_info=error)


def in_words(error: BaseException) -> str:
    """Of an exception that nobody foresaw: its type too, since some have no text or one that needs it."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def said(error: Exception) -> str:
    """Of any exception: what one that was foreseen says; ``in_words`` of another."""
    return str(error) if isinstance(error, OSError | MoEServingError) else in_words(error)
