"""A ``CancelledError`` that nobody asked for is an error like any other.

It comes out of a future that somebody else cancelled, and would end the task that waits for it without a word: asyncio
takes the task for cancelled, a TaskGroup does not even notice. Whether this task was asked to end, it knows itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from moe_operator.errors import OperatorError


class StrayCancellationError(OperatorError):
    """Something that was waited for was cancelled, and not the task that waited."""


@contextlib.contextmanager
def stray_cancellations() -> Iterator[None]:
    """Around what a task does for ever.

    Raises:
        StrayCancellationError: in place of a CancelledError that nobody asked of this task.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise StrayCancellationError("what was waited for was cancelled by somebody else") from error
