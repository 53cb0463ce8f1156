"""On whose behalf something is done: the namespace of the MoEDeployment that a pass is over.

What is short (the worker process, the room for large answers) goes round by it. Many addresses, or many objects, of one
namespace have together what one has. It is set around a pass, and asked for where something is waited for, some layers
below that have no other use for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

NOBODY = ""

_tenant: ContextVar[str] = ContextVar("tenant", default=NOBODY)


@contextlib.contextmanager
def on_behalf_of(namespace: str) -> Iterator[None]:
    """What is done inside, also by what is called or awaited there, is done for ``namespace``."""
    token = _tenant.set(namespace)
    try:
        yield
    finally:
        _tenant.reset(token)


def tenant() -> str:
    """The namespace for which this is done; ``NOBODY`` if for none."""
    return _tenant.get()
