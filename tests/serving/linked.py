"""Waits for a client's connections, which threads of their own make: what it prefers depends on which are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fake_shards import FakeCompletion, FakeFabric, FakeShard, table_of
from waiting import wait_until

from moe_serving.routing.client import RemoteExperts


def linked_client(experts: int, shards: Sequence[FakeShard]) -> RemoteExperts[FakeCompletion]:
    """A client of one layer of so many experts, linked to ``shards``, each of which holds what it says."""
    client = RemoteExperts(1, experts, FakeFabric(shards), "node")
    held = np.zeros((1, experts, len(shards)), dtype=bool)
    for position, shard in enumerate(shards):
        held[0, sorted(shard.held), position] = True
    client.update(table_of(held))
    wait_linked(client)
    return client


def wait_linked(experts: RemoteExperts[Any]) -> None:
    """Until every shard of the newest table can be asked. Stands in for the engine's thread, so before it works."""
    routes = experts._routes
    routes.adopt()
    routes.release()
    wait_until(lambda: bool(routes.connected().all()), "all shards to be connected")
