"""Looks at the traffic, at most one at a time of each deployment and beside its passes: a plan takes seconds, and a
pass must not wait for it. What is remembered here may be lost: that costs two looks, never state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from moe_operator.api import RebalanceReason
from moe_operator.errors import OperatorError
from moe_operator.offload.aside import Aside
from moe_operator.offload.errors import JobTooHeavyError, OffloadError
from moe_operator.offload.process import Bounds, WorkerProcess
from moe_operator.placements.validity import Ground
from moe_operator.rebalance.loop import Look
from moe_operator.rebalance.proposal import Proposal, Question, propose
from moe_operator.rebalance.recent import Mark
from moe_operator.recent import Recent
from moe_operator.tasks import StrayCancellationError, stray_cancellations

BOUNDS = Bounds(processor_seconds=45.0, seconds=120.0)
"""Bounds on one plan: ``proposal.SOLVE_SECONDS`` of search, and what is counted before and after it."""
ASIDE_SECONDS, ASIDE_CAP_SECONDS = 600.0, 3600.0
"""How long a deployment whose plan was too heavy is left alone, at first and at most: each attempt keeps others from
the worker process for the time of the bounds."""

Read = Callable[[], AbstractAsyncContextManager[bytearray]]
"""Statistics, held while inside."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Deployment:
    """Attributes: ``uid`` of the object; ``aside`` where planning on ``ground`` was too heavy; ``every``: the interval
    at the last look; ``task`` while a look is under way; ``ended`` until it is taken."""

    uid: str
    aside: Aside
    ground: Ground | None = None
    every: timedelta | None = None
    marks: tuple[Mark, ...] = ()
    first_layer: int = 0
    task: asyncio.Task[None] | None = None
    ended: Look | None = None


@dataclass(slots=True)
class Looks:
    """Attributes:
    worker: None to plan here.
    finished: told of the key when a look has ended.
    clock: monotonic.
    """

    worker: WorkerProcess | None = None
    finished: Callable[[str], None] = lambda key: None
    clock: Callable[[], float] = time.monotonic
    _deployments: Recent[str, _Deployment] = field(default_factory=Recent)

    def begin(
        self, key: str, uid: str, owner: str, at: datetime, every: timedelta, question: Question, read: Read
    ) -> None:
        """Read the statistics and have a placement looked for; nothing happens while a look is under way, or has not
        been taken.

        Args:
            owner: looks of one owner take turns with those of others.
            every: ``spec.rebalance.interval``.
            question: without ``marks``, ``now``, ``first_layer`` and ``other_interval``.
        """
        known = self._of(key, uid)
        if known.task or known.ended:
            return
        if question.ground != known.ground:
            known.ground = question.ground
            known.aside.clear()
        other = known.every not in (None, every)
        if other:
            known.marks = ()  # also where this look fails and only the next one compares
        asked = replace(question, marks=known.marks, first_layer=known.first_layer, other_interval=other)
        known.every = every
        known.task = asyncio.create_task(self._look(key, known, owner, at, asked, read), name=f"look at {key}")

    def take(self, key: str, uid: str) -> Look | None:
        """The look that has ended; it is given out once."""
        known = self._of(key, uid)
        ended, known.ended = known.ended, None
        return ended

    def forget(self, key: str) -> None:
        """The deployment is gone, or nobody wants looks any more."""
        known = self._deployments.get(key)
        if known and known.task:
            known.task.cancel()
        self._deployments.pop(key)

    def _of(self, key: str, uid: str) -> _Deployment:
        known = self._deployments.get_or_make(key, lambda: self._new(uid))
        if known.uid != uid:
            self.forget(key)
            known = self._deployments.get_or_make(key, lambda: self._new(uid))
        return known

    def _new(self, uid: str) -> _Deployment:
        return _Deployment(uid, Aside(self.clock, ASIDE_SECONDS, ASIDE_CAP_SECONDS))

    async def _look(
        self,
        key: str,
        known: _Deployment,
        owner: str,
        at: datetime,
        question: Question,
        read: Read,
    ) -> None:
        try:
            proposal = await self._proposal(key, known.aside, owner, question, read)
        finally:
            known.task = None
        known.marks = proposal.marks
        known.first_layer = known.first_layer if proposal.first_layer is None else proposal.first_layer
        known.ended = Look(at, question.ground.revision, proposal)
        self.finished(key)

    async def _proposal(self, key: str, aside: Aside, owner: str, question: Question, read: Read) -> Proposal:
        try:
            with aside.around(JobTooHeavyError), stray_cancellations():
                async with read() as statistics:
                    # Reading waits for its turn: what is there now came until now.
                    asked = replace(question, now=self.clock())
                    if self.worker is None:
                        return propose(statistics, asked)
                    found: Proposal = await self.worker.run(owner, BOUNDS, propose, statistics, asked)
                    return found
        except JobTooHeavyError as error:
            message = f"planning {error}; it is tried again after a while"
            return _failed(RebalanceReason.PLANNING_TOO_HEAVY, message, question)
        except (OffloadError, StrayCancellationError) as error:
            return _failed(RebalanceReason.PLANNING_DELAYED, f"{error}; it is tried again", question)
        except OperatorError as error:
            return _failed(RebalanceReason.STATISTICS_MISSING, str(error), question)
        except Exception as error:  # a defect that one deployment shows must not stop the looks at it for ever
            logger.exception("the look at the traffic of %s failed", key)
            message = f"the operator failed ({type(error).__name__}): see its log"
            return _failed(RebalanceReason.PLANNING_DELAYED, message, question)


def _failed(reason: RebalanceReason, message: str, question: Question) -> Proposal:
    return Proposal(False, reason, message, question.marks)
