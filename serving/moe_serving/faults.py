"""Points of a migration at which a test may end a process: after each message and each step of each role.

Where no test has put a hook, a point costs a look at one variable, a few times for each copy of an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class FaultPoint(StrEnum):
    """Each by the role that passes it, and what has just happened there."""

    DIRECTORY_ACCEPTED = "directory: took a target"
    DIRECTORY_ASKED = "directory: told a shard what to load"
    DIRECTORY_COPIED = "directory: heard of a new copy"
    DIRECTORY_PUBLISHED = "directory: put a table in force"
    DIRECTORY_ACKNOWLEDGED = "directory: heard that no replica is behind a table"
    DIRECTORY_FREED = "directory: told a shard what to free"
    SHARD_TOLD = "shard: took orders"
    SHARD_RESERVED = "shard: reserved a slot"
    SHARD_FILLED = "shard: filled a slot"
    SHARD_PUBLISHED = "shard: published a copy"
    SHARD_FREED = "shard: freed a copy"
    SHARD_SENDS = "shard: is about to send a piece of a copy"
    ATTENTION_HEARD = "attention: got a table"
    ATTENTION_ACKNOWLEDGED = "attention: told that it routes by a table"


hook: Callable[[FaultPoint], None] | None = None
"""Called at each point, on the thread that passes it."""


def reached(point: FaultPoint) -> None:
    """``point`` is passed."""
    if hook is not None:
        hook(point)
