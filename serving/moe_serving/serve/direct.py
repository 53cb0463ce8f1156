"""How a deployment of one replica is called past Serve's handles: these only tell where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from ray.serve.handle import DeploymentHandle

from moe_contract.applications import Network
from moe_serving.wire.calls import CallServer, Method
from moe_serving.wire.endpoint import Address, Endpoint


class Direct:
    """The end that is called. Its deployment has a method ``address``, for the handles of those who call by a
    ``wire.caller.Caller``.

    Args:
        methods: by their names.
    """

    def __init__(self, network: Network, methods: Mapping[str, Method]) -> None:
        node = ray.get_runtime_context().get_node_id()
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray's own lack
        endpoint = Endpoint.open(node, host, network)
        self._address = endpoint.address
        self._server = asyncio.create_task(CallServer.start(endpoint, methods))

    async def address(self) -> Address:
        """Where it listens, once it does."""
        await asyncio.shield(self._server)
        return self._address

    async def close(self) -> None:
        """Whoever calls from now on finds another replica, or none."""
        await (await self._server).close()


async def address_of(handle: DeploymentHandle[Any]) -> Address:
    """Asks the deployment where it listens; a call that is given up is cancelled, lest it wait there for ever.

    Raises:
        Exception: whatever the handle raises.
    """
    address: Address = await answer_of(handle.address.remote())
    return address


async def answer_of(response: Any) -> Any:
    """Of a call by a handle of Serve's; one that is given up is cancelled."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
