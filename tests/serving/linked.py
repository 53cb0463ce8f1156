"""Waits for a client's connections, which threads of their own make: what it prefers depends on which are there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from moe_serving.routing.client import RemoteExperts

WAIT_S = 30.0


def wait_linked(experts: RemoteExperts[Any]) -> None:
    """Until every shard of the newest table can be asked. Stands in for the engine's thread, so before it works."""
    routes = experts._routes
    routes.adopt()
    routes.release()
    wait_until(lambda: bool(routes.connected().all()), "all shards to be connected")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"waited {WAIT_S} s for {what}"
        time.sleep(0.001)
