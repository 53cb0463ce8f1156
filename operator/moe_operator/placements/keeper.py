"""Keeps the ExpertPlacements of a deployment true: their statuses, the object that what runs lacks, the history.

Called at the end of each pass over a MoEDeployment. A write that fails is tried again by the next pass; what runs does
not depend on it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from moe_operator.api import ExpertPlacement, ExpertPlacementStatus, MoEDeployment, Phase, PlacementReason
from moe_operator.api.names import COMPONENT_PLACEMENT, PlacementConditionType
from moe_operator.api.placement import Decision, Origin, placement_name
from moe_operator.api.status import TIME_FORMAT
from moe_operator.kube.api import KubeApi
from moe_operator.kube.children import child_metadata, owner_reference
from moe_operator.kube.errors import AlreadyExistsError, ConflictError, KubeError, NotFoundError
from moe_operator.kube.events import EventNote, EventRecorder
from moe_operator.kube.objects import write_status
from moe_operator.kube.resources import EXPERT_PLACEMENTS
from moe_operator.placements.book import Book
from moe_operator.placements.choice import Choice, Record, Standing
from moe_operator.placements.history import to_prune
from moe_operator.placements.store import PlacementStore
from moe_operator.placements.story import Scene, next_status, recorded_status
from moe_operator.placements.validity import Judgement, Outlook
from moe_operator.recent import Recent

PROGRESS_SECONDS = 2.0
FIGURES_SECONDS = 60.0
"""Between two writes that bring nothing but progress, or figures: each stores the whole object, content and all."""

_UNSEEN = (None, -1)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlacementKeeper:
    """``clock`` is monotonic."""

    api: KubeApi
    events: EventRecorder
    store: PlacementStore
    clock: Callable[[], float] = time.monotonic
    _written: Recent[str, float] = field(default_factory=Recent)

    async def keep(self, moe: MoEDeployment, scene: Scene) -> None:
        """Make the objects of a deployment say what ``scene`` shows."""
        book = self.store.book(moe.key)
        try:
            if scene.choice.record:
                await self._record(moe, scene, scene.choice.record)
            for placement in book.placements:
                await self._tell(moe, placement, next_status(placement, scene))
            await self._confirm(book, scene)
            for placement in to_prune(book.placements, scene.revision, moe.spec.rebalance.history_limit):
                await self._delete(placement)
        except (ConflictError, NotFoundError, AlreadyExistsError) as error:
            logger.debug("%s; once more in the next pass", error)
        except KubeError as error:
            logger.warning("the ExpertPlacements do not tell how they are: %s", error)

    async def tell_missing(self, deployment: str, now: datetime) -> None:
        """Say of placements that wait that there is no such MoEDeployment."""
        book = self.store.book(deployment)
        name = deployment.partition("/")[2]
        missing = Judgement(
            Outlook.WAITS,
            PlacementReason.DEPLOYMENT_MISSING,
            f"spec.deploymentRef.name is {name}, and there is no MoEDeployment of that name in this namespace: make "
            "one, or delete this object",
        )
        choice = Choice(judgements={each.revision: missing for each in book.ahead})
        scene = Scene(choice, 0, False, None, None, None, None, now.strftime(TIME_FORMAT))
        try:
            for placement in book.ahead:
                await self._write(placement, next_status(placement, scene))
        except KubeError as error:
            logger.warning("of placements without a MoEDeployment nothing could be told: %s", error)

    async def _record(self, moe: MoEDeployment, scene: Scene, record: Record) -> None:
        name = placement_name(moe.metadata.name, record.content.revision)
        body = {
            "apiVersion": EXPERT_PLACEMENTS.api_version,
            "kind": EXPERT_PLACEMENTS.kind,
            "metadata": child_metadata(moe, name, COMPONENT_PLACEMENT),
            "spec": {
                "deploymentRef": {"name": moe.metadata.name},
                "decision": Decision.PENDING,
                "content": record.content.model_dump(mode="json", by_alias=True),
            },
        }
        live = await self.api.create(EXPERT_PLACEMENTS, body)
        self.store.put(live)
        self.store.put(await write_status(self.api, live, recorded_status(scene, record.moves), EXPERT_PLACEMENTS))
        await self._approve(moe.metadata.namespace, name)

    async def _confirm(self, book: Book, scene: Scene) -> None:
        """What runs was decided on."""
        own = book.at(scene.revision)
        if own is None or scene.choice.standing is not Standing.EXPRESSED or own.spec.decision is not Decision.PENDING:
            return
        await self._approve(own.metadata.namespace, own.metadata.name)

    async def _approve(self, namespace: str, name: str) -> None:
        patch = {"spec": {"decision": Decision.APPROVED}}
        self.store.put(await self.api.merge_patch(EXPERT_PLACEMENTS, namespace, name, patch))

    async def _tell(self, moe: MoEDeployment, placement: ExpertPlacement, status: ExpertPlacementStatus) -> None:
        if placement.status.observed_generation in _UNSEEN:
            await self._adopt(moe, placement)
        await self._write(placement, status)

    async def _write(self, placement: ExpertPlacement, status: ExpertPlacementStatus) -> None:
        live, now = self.store.get(placement), self.clock()
        if live is None or not self._is_due(placement, status, now):
            return
        self.store.put(await write_status(self.api, live, status, EXPERT_PLACEMENTS))
        self._written.put(placement.metadata.uid, now)
        note = _event(placement.status, status)
        if note:
            await self.events.record(placement, note)

    def _is_due(self, placement: ExpertPlacement, status: ExpertPlacementStatus, now: float) -> bool:
        if status == placement.status:
            return False
        if _news(status) != _news(placement.status):
            return True
        wait = PROGRESS_SECONDS if status.phase is Phase.MIGRATING else FIGURES_SECONDS
        written = self._written.get(placement.metadata.uid)
        return written is None or now - written >= wait

    async def _adopt(self, moe: MoEDeployment, placement: ExpertPlacement) -> None:
        """What a person wrote goes with its MoEDeployment too."""
        metadata = placement.metadata
        live = await self.api.get_metadata(EXPERT_PLACEMENTS, metadata.namespace, metadata.name)
        owners = live.get("ownerReferences", [])
        if any(owner["uid"] == moe.metadata.uid for owner in owners):
            return
        ours = owner_reference(moe, controller=not any(owner.get("controller") for owner in owners))
        patch = {"metadata": {"resourceVersion": live["resourceVersion"], "ownerReferences": [*owners, ours]}}
        self.store.put(await self.api.merge_patch(EXPERT_PLACEMENTS, metadata.namespace, metadata.name, patch))

    async def _delete(self, placement: ExpertPlacement) -> None:
        metadata = placement.metadata
        await self.api.delete(EXPERT_PLACEMENTS, metadata.namespace, metadata.name, metadata.uid)
        known = self.store.get(placement)
        if known:
            self.store.remove(known)


def _news(status: ExpertPlacementStatus) -> ExpertPlacementStatus:
    """Without what changes at every look."""
    conditions = tuple(each.model_copy(update={"message": ""}) for each in status.conditions)
    return status.model_copy(update={"progress": None, "balance": None, "fan_out": None, "conditions": conditions})


def _event(before: ExpertPlacementStatus, after: ExpertPlacementStatus) -> EventNote | None:
    """Of what became of what a person wrote. What the operator does by itself is told of the MoEDeployment."""
    if after.phase is before.phase or after.phase not in _EVENTS or after.origin is not Origin.PERSON:
        return None
    kind = PlacementConditionType.VALID if after.phase is Phase.FAILED else PlacementConditionType.ACTIVE
    told = after.condition(kind)
    if told is None:
        return None
    reason = PlacementReason.named(told.reason)
    return EventNote("Warning" if after.phase is Phase.FAILED else "Normal", reason, told.message, action="Place")


_EVENTS = frozenset({Phase.MIGRATING, Phase.ACTIVE, Phase.FAILED})
