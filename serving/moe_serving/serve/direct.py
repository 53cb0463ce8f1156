"""How a deployment of one replica is called past Serve's handles: these only tell where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from ray.serve.handle import DeploymentHandle

from moe_contract.applications import Network
from moe_serving.serve.replica import node_address
from moe_serving.threads import in_words
from moe_serving.wire.calls import CallServer, Method
from moe_serving.wire.endpoint import Address, Endpoint


def open_here(network: Network) -> Endpoint:
    """Sockets of a replica, on the node and address that Ray knows it by."""
    node = ray.get_runtime_context().get_node_id()
    return Endpoint.open(node, node_address(), network)


class Direct:
    """The end that is called. Its deployment has a method ``address``, for the handles of those who call by a
    ``wire.caller.Caller``.

    Args:
        endpoint: owned from now on.
        methods: by their names.
    """

    def __init__(self, endpoint: Endpoint, methods: Mapping[str, Method]) -> None:
        self._address = endpoint.address
        self._server = asyncio.create_task(CallServer.start(endpoint, methods))

    async def address(self) -> Address:
        """Where it listens, once it does."""
        await asyncio.shield(self._server)
        return self._address

    def check_health(self) -> None:
        """
        Raises:
            RuntimeError: it does not listen and never will: nobody can call this process.
        """
        if self._server.done() and (error := self._server.exception()) is not None:
            raise RuntimeError(f"calls cannot be listened for: {in_words(error)}") from error

    async def close(self) -> None:
        """Whoever calls from now on finds another replica, or none."""
        await asyncio.wait({self._server})
        if self._server.exception() is None:
            await self._server.result().close()


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
