"""Waits for a client's connections, which threads of their own make: what it prefers depends on which are there."""

from __future__ import annotations

from typing import Any

from waiting import wait_until

from moe_serving.routing.client import RemoteExperts


def wait_linked(experts: RemoteExperts[Any]) -> None:
    """Until every shard of the newest table can be asked. Stands in for the engine's thread, so before it works."""
    routes = experts._routes
    routes.adopt()
    routes.release()
    wait_until(lambda: bool(routes.connected().all()), "all shards to be connected")
