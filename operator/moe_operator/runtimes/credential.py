"""A bearer token on its way, and the question whether it may still be sent. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Check = Callable[[], Awaitable[None]]
"""Raises an ``OperatorError`` where what was allowed when it was read is so no longer."""


async def always() -> None:
    """The check of what is the operator's own to send."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What is sent to prove who asks; two are equal where the token is.

    Attributes:
        check: asked before the token goes over a new connection, and before each write with it: it may have been read
            minutes ago.
    """

    token: str = field(repr=False)
    check: Check = field(default=always, compare=False, repr=False)
