"""Wakes a deployment, by its subresource ``scale``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from moe_operator.activator.announcement import Announcement
from moe_operator.api.names import ACTIVATOR_FIELD_MANAGER
from moe_operator.kube.api import Json
from moe_operator.kube.errors import ConflictError, KubeError
from moe_operator.kube.resources import MOE_DEPLOYMENTS, Resource

AGAIN_SECONDS = 1.0
"""After a write that was refused, overtaken or not answered."""
TRIED_SECONDS = 120.0
"""Nobody waits any longer."""

logger = logging.getLogger(__name__)


class ScaleApi(Protocol):
    """Of ``KubeClient``."""

    async def get_scale(self, resource: Resource, namespace: str, name: str) -> Json: ...

    async def scale(
        self, resource: Resource, namespace: str, name: str, replicas: int, version: str, manager: str
    ) -> None: ...


class Waker:
    """Each deployment is worked by one task at a time, for all who want it."""

    def __init__(
        self, api: ScaleApi, woken: Callable[[], None] = lambda: None, again_seconds: float = AGAIN_SECONDS
    ) -> None:
        self._api = api
        self._again = again_seconds
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._woken = woken

    async def wake(self, deployment: Announcement) -> None:
        """Until its scale was not 0, tried again and again; a later 0 of somebody's is left as it is."""
        task = self._tasks.get(deployment.key)
        if task is None:
            task = asyncio.create_task(self._try(deployment), name=f"wake {deployment.key}")
            self._tasks[deployment.key] = task
            task.add_done_callback(lambda _: self._tasks.pop(deployment.key, None))
        # Whoever gives up waiting must not end it for the others.
        await asyncio.shield(task)

    async def close(self) -> None:
        """End what is still tried."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _try(self, deployment: Announcement) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRIED_SECONDS):
                while True:
                    if await self._is_written(deployment):
                        return
                    await asyncio.sleep(self._again)

    async def _is_written(self, deployment: Announcement) -> bool:
        try:
            await self._write(deployment)
        except ConflictError:
            return False
        except KubeError as error:
            logger.warning("%s cannot be woken: %s", deployment.key, error)
            return False
        return True

    async def _write(self, deployment: Announcement) -> None:
        namespace, name = deployment.namespace, deployment.name
        live = await self._api.get_scale(MOE_DEPLOYMENTS, namespace, name)
        if live["spec"].get("replicas", 0) > 0:
            return
        version, shards = live["metadata"]["resourceVersion"], deployment.shards
        await self._api.scale(MOE_DEPLOYMENTS, namespace, name, shards, version, ACTIVATOR_FIELD_MANAGER)
        self._woken()
        logger.info("%s is woken, to %d shards", deployment.key, shards)
