"""Watches one shard: what it said last, and whether it still says anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moe_contract.model import ModelFacts
from moe_contract.report import ShardPhase
from moe_serving.directory.actions import Copies
from moe_serving.directory.errors import ShardGoneError
from moe_serving.directory.sources import Site
from moe_serving.experts.description import ExpertKey, Loading, LoadOrder, ShardDescription
from moe_serving.faults import FaultPoint, reached
from moe_serving.routing.table import ShardAddress

HOLD_SECONDS = 1.0
"""How long a shard may hold its answer while we know it already: an idle shard costs a call in so many seconds. One
that stands still is noticed by the answer that does not come, so this is a part of ``LOST_SECONDS``."""
PAUSE_SECONDS = 0.25
"""Between the beginnings of two calls to a shard, also to one that changes all the time or cannot be reached."""
ANSWER_SECONDS = 1.0
"""How long a shard may take to answer, beyond the time for which it may hold the answer."""
LOST_SECONDS = 3.0
"""A shard silent for so long is Lost: nothing is freed any more in reliance on it."""
FORGOTTEN_SECONDS = 30.0
"""A shard silent for so long leaves the table. Its process may be busy rather than dead, and attention sees a broken
connection by itself, so there is no hurry; what is known to be dead leaves at once."""

DOUBT_SECONDS = 30.0
"""Between two times that a shard with another checkpoint is asked to look at its files again: that reads the headers of
all of them."""
_EQUAL = f"make them equal: the shard looks again every {DOUBT_SECONDS:.0f} s"

logger = logging.getLogger(__name__)


class ShardClient(Protocol):
    """How to reach a shard: a connection, a pipe in tests. May raise anything; ``ShardGoneError`` if it is dead."""

    async def describe(self, known: str | None, hold: float) -> ShardDescription:
        """The shard now. While its ``version`` is ``known`` the answer may be held, for ``hold`` seconds at most."""
        ...

    async def assign(self, incarnation: str, load: Sequence[LoadOrder], free: Sequence[ExpertKey]) -> None: ...

    async def look_again(self, incarnation: str, digest: str) -> None:
        """Have it look whether its files are those of the checkpoint of ``digest`` by now. One of an earlier release
        raises, and has to be restarted."""
        ...

    def close(self) -> None:
        """Nobody asks any more."""
        ...


class ShardMonitor:
    """One shard as seen from here.

    Args:
        client: reaches the shard.
        clock: monotonic seconds.
        changed: called after every change that actions or a report may depend on, unless it comes with time alone.
    """

    def __init__(
        self, index: int, client: ShardClient, clock: Callable[[], float], changed: Callable[[], None] = lambda: None
    ) -> None:
        self.index = index
        self.description: ShardDescription | None = None
        """What it said last; None before it ever answered, and again once it is known to be dead or forgotten."""
        self.revision = 0
        """Grows whenever ``description`` becomes another one."""
        self.told: Copies | None = None
        """What live shards held when it took its last orders; None before it did."""
        self._client = client
        self._clock = clock
        self._changed = changed
        self._known: str | None = None
        self._answered: float | None = None
        self._gone = False
        self._orders = 0
        self._doubted = float("-inf")

    @property
    def phase(self) -> ShardPhase:
        if self._answered is None:
            return "Starting"
        if self._gone or self._silence() >= LOST_SECONDS:
            return "Lost"
        return "Ready" if self.address is not None else "Starting"

    @property
    def address(self) -> ShardAddress | None:
        """Where attention reaches the shard; None while it is not to be asked."""
        said = self.description
        if said is None or said.address is None:
            return None
        return ShardAddress(self.index, said.incarnation, said.address)

    @property
    def site(self) -> Site:
        """The shard as a neighbour of others; see ``Site``."""
        said = self.description
        if said is None:
            return Site()
        return Site(said.node, said.address, said.near_checkpoint, said.problem is not None, self.loading)

    @property
    def loading(self) -> Loading:
        """What the shard still has to load."""
        return self.description.loading if self.description is not None else Loading()

    @property
    def capacity(self) -> int:
        """Copies that the shard may hold over all layers."""
        return self.description.capacity if self.description else 0

    def held(self, facts: ModelFacts) -> NDArray[np.bool_]:
        """bool ``[layers, experts]``: what the shard held when it answered last; nothing while ``problem`` excludes
        it."""
        said = self.description
        if said is None or said.held is None or self.problem(facts) is not None:
            return np.zeros((facts.layers, facts.experts), dtype=bool)
        return said.held

    def problem(self, facts: ModelFacts) -> str | None:
        """Why the shard cannot be used at all, if so."""
        said = self.description
        if said is None:
            return None
        if said.held is not None and said.held.shape != (facts.layers, facts.experts):
            return (
                f"node {said.node} has another checkpoint at the model's path, of {said.held.shape[0]} layers of "
                f"{said.held.shape[1]} experts, than the directory, of {facts.layers} of {facts.experts}; {_EQUAL}"
            )
        if said.digest is None:
            return None
        if said.weights != facts.weights:
            return (
                f"it holds experts as {said.weights}, and the directory is told {facts.weights}: whoever starts shards "
                "tells both the same"
            )
        if said.digest == facts.digest:
            return None
        return (
            f"node {said.node} has another checkpoint at the model's path ({said.digest}) than the directory "
            f"({facts.digest}); {_EQUAL}"
        )

    @property
    def next_phase(self) -> float | None:
        """When the shard becomes Lost unless it answers before; None where silence changes nothing."""
        if self._answered is None or self.phase == "Lost":
            return None
        return self._answered + LOST_SECONDS

    async def watch(self, digest: str) -> None:
        """Ask the shard again and again, until cancelled. ``digest``: of the checkpoint that it shall have."""
        try:
            while True:
                began = self._clock()
                await self.poll()
                await self.doubt(digest)
                await asyncio.sleep(began + PAUSE_SECONDS - self._clock())
        finally:
            self._client.close()

    async def poll(self) -> None:
        """Ask the shard once; it may hold its answer while that is the one we have."""
        orders, known = self._orders, self._known
        hold = HOLD_SECONDS if known is not None else 0.0
        try:
            async with asyncio.timeout(hold + ANSWER_SECONDS):
                description = await self._client.describe(known, hold)
        except ShardGoneError as error:
            self._note_gone(str(error))
        except Exception as error:  # noqa: BLE001 - a call may fail in any way; what counts is that there is no answer
            logger.debug("shard %d does not answer: %s: %s", self.index, type(error).__name__, error)
            self._known = None
            if self.description is not None and self._silence() >= FORGOTTEN_SECONDS:
                self._note_gone(f"it was silent for {FORGOTTEN_SECONDS:g} s")
        else:
            self._note_answer(description, outdated=orders != self._orders)

    async def doubt(self, digest: str) -> None:
        """Have the shard look at its files again where it has another checkpoint than that of ``digest``."""
        said, now = self.description, self._clock()
        if said is None or said.digest in (None, digest) or now - self._doubted < DOUBT_SECONDS:
            return
        self._doubted = now
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._client.look_again(said.incarnation, digest)
        except Exception as error:  # noqa: BLE001 - as in poll
            logger.debug("shard %d does not look again: %s: %s", self.index, type(error).__name__, error)

    def is_news(self, load: Sequence[ExpertKey], free: Sequence[ExpertKey]) -> bool:
        """Whether these orders are other ones than the shard has."""
        said = self.description
        if said is None or said.held is None:
            return False
        return bool(free) or Loading.of(load, said.loading.on_its_way) != said.loading

    async def assign(self, load: Sequence[LoadOrder], free: Sequence[ExpertKey], held: Copies) -> bool:
        """Give the shard orders; what becomes of them is seen at the next poll.

        From now on nothing may rely on what is being freed, whatever the shard said before.

        Args:
            held: by live shards, by which the sources of ``load`` were chosen.

        Returns:
            False when it did not take them.
        """
        said = self.description
        if said is None or said.held is None:
            return True
        self._orders += 1
        kept = said.held.copy()
        kept[tuple(np.array(free, dtype=np.intp).reshape(-1, 2).T)] = False
        self._know(replace(said, held=kept), None)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._client.assign(said.incarnation, load, free)
        except Exception as error:  # noqa: BLE001 - as in poll; the next turn repeats what was not done
            logger.warning("shard %d did not take its orders: %s: %s", self.index, type(error).__name__, error)
            return False
        if self.description is not None:
            # So that the same order is not given again before its answer comes, which would outdate that answer.
            loading = Loading.of([order.key for order in load], self.description.loading.on_its_way)
            self.description = replace(self.description, loading=loading)
            self.told = held
        if free:
            reached(FaultPoint.DIRECTORY_FREED)
        if load:
            reached(FaultPoint.DIRECTORY_ASKED)
        return True

    def _note_answer(self, description: ShardDescription, outdated: bool) -> None:
        phase = self.phase
        if phase == "Lost":
            logger.info("shard %d is back as incarnation %s", self.index, description.incarnation)
        self._answered = self._clock()
        self._gone = False
        if outdated:
            self._known = None
        elif description.version is None or description.version != self._known:
            before = self.description.held if self.description is not None else None
            self._know(description, description.version)
            if _holds_more(before, description.held):
                reached(FaultPoint.DIRECTORY_COPIED)
        else:
            self.description = description
        if self.phase != phase:
            self._changed()

    def _know(self, description: ShardDescription | None, version: str | None) -> None:
        self.description = description
        self._known = version
        self.revision += 1
        self._changed()

    def _note_gone(self, reason: str) -> None:
        if not self._gone:
            logger.warning("shard %d is lost: %s", self.index, reason)
            self._gone = True
            self._know(None, None)

    def _silence(self) -> float:
        return 0.0 if self._answered is None else self._clock() - self._answered


def _holds_more(before: NDArray[np.bool_] | None, now: NDArray[np.bool_] | None) -> bool:
    """Whether a copy came; descriptions of another model cannot be compared."""
    return before is not None and now is not None and before.shape == now.shape and bool((now & ~before).any())
