"""Writes on ExpertPlacements, one after the other within bounds: what is refused of one stands in no other's way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from moe_operator.kube.api import KubeApi
from moe_operator.kube.errors import AlreadyExistsError, ConflictError, KubeError, NotFoundError
from moe_operator.kube.resources import EXPERT_PLACEMENTS
from moe_operator.placements.refusals import Refusals
from moe_operator.placements.store import PlacementStore

SECONDS = 5.0
MOST_AT_A_TIME = 8
"""Attempts in one pass over a deployment: so many objects are told, and so often something is written of one."""

_NOT_REFUSED = (401, 408, 429)
"""With these codes the API server says nothing of the object that was written."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attempt:
    """``make`` returns whether anything was asked of the API server."""

    verb: str
    key: str
    make: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Attempts:
    """``clock`` is monotonic."""

    api: KubeApi
    store: PlacementStore
    clock: Callable[[], float] = time.monotonic
    _refusals: Refusals = field(default_factory=Refusals)

    async def make(self, deployment: str, attempts: Iterable[Attempt]) -> KubeError | None:
        """Make as many of the attempts, in their order, as there is time for; those that were refused only when their
        time has come.

        Returns:
            The first refusal that stands.
        """
        tried: list[str] = []
        made = 0
        try:
            async with asyncio.timeout(SECONDS):
                for attempt in attempts:
                    what = f"{attempt.verb} {attempt.key}"
                    tried.append(what)
                    if made < MOST_AT_A_TIME and self._refusals.is_due(what, self.clock()):
                        made += await self._try(what, attempt)
        except TimeoutError:
            logger.info("the ExpertPlacements of %s: what is left is told in the next pass", deployment)
        except KubeError as error:
            logger.warning("the ExpertPlacements of %s do not tell how they are: %s", deployment, error)
        return self._refusals.first(tried)

    async def _try(self, what: str, attempt: Attempt) -> bool:
        """Make an attempt; returns whether anything was asked of the API server.

        Raises:
            KubeError: it answers nobody now.
        """
        try:
            made = await attempt.make()
        except NotFoundError as error:
            logger.debug("%s; it is gone", error)
            self.store.forget(attempt.key)
        except ConflictError as error:
            logger.debug("%s; once more in the next pass", error)
            await self._catch_up(attempt.key)
        except AlreadyExistsError as error:
            logger.debug("%s, and was not known", error)
            self._refusals.note(what, error, self.clock())
            await self._read(attempt.key)
        except KubeError as error:
            if not 400 <= error.status < 500 or error.status in _NOT_REFUSED:
                raise
            logger.warning("%s", error)
            self._refusals.note(what, error, self.clock())
        else:
            self._refusals.forget(what)
            return made
        return True

    async def _catch_up(self, key: str) -> None:
        """Ask for an object where a conflict repeats on the state that is known of it."""
        known = self.store.objects.get(key)
        if known and self.store.objects.conflicted(key, known["metadata"]["resourceVersion"]):
            await self._read(key)

    async def _read(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        try:
            self.store.put(await self.api.get(EXPERT_PLACEMENTS, namespace, name))
        except NotFoundError:
            self.store.forget(key)
