"""Keeps the ExpertPlacements of a deployment true: their statuses, the object that what runs lacks, the history.

Called at the end of each pass over a MoEDeployment, for a bounded time: what runs does not depend on it, and who may
write objects may write many (``attempts``). What is left goes on in the next pass.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from moe_operator.allowance import Allowance
from moe_operator.api import (
    ExpertPlacement,
    ExpertPlacementStatus,
    MoEDeployment,
    Phase,
    PlacementContent,
    PlacementReason,
)
from moe_operator.api.names import COMPONENT_PLACEMENT, placement_name
from moe_operator.api.placement import Decision, Origin
from moe_operator.api.reasons import PlacementConditionType
from moe_operator.api.status import TIME_FORMAT
from moe_operator.errors import InvalidObjectError
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.children import child_metadata
from moe_operator.kube.errors import KubeError, NotFoundError
from moe_operator.kube.events import EventRecorder
from moe_operator.kube.objects import write_status
from moe_operator.kube.resources import EXPERT_PLACEMENTS
from moe_operator.placements.attempts import Attempt, Attempts
from moe_operator.placements.book import Book, phase_of
from moe_operator.placements.choice import Choice, Record, Standing, unlooked_at
from moe_operator.placements.events import concerns_deployment, event_of
from moe_operator.placements.history import to_prune
from moe_operator.placements.provenance import Provenance
from moe_operator.placements.store import PlacementStore
from moe_operator.placements.story import Scene, next_status, recorded_status
from moe_operator.placements.trial import is_condemned
from moe_operator.placements.validity import NOT_JUDGED, Judgement, Outlook
from moe_operator.recent import Recent

PROGRESS_SECONDS = 2.0
FIGURES_SECONDS = 60.0
"""Between two writes that bring nothing but progress or figures: each stores the whole object, content and all."""

_UNSEEN = (None, -1)


def _new_allowance() -> Allowance:
    """An allowance of writes for which no phase changes: what an object is judged by may change at every look."""
    return Allowance(burst=10, seconds=5.0)


@dataclass(slots=True)
class PlacementKeeper:
    """Attributes:
    key: of the operator's to the directory of a deployment; raises as ``Secrets.internal_key``.
    clock: monotonic.
    rolled_back: told of each that was, and who wrote it.
    """

    api: KubeApi
    events: EventRecorder
    store: PlacementStore
    key: Callable[[MoEDeployment], Awaitable[str]]
    clock: Callable[[], float] = time.monotonic
    rolled_back: Callable[[Origin], None] = lambda origin: None
    _written: Recent[str, float] = field(default_factory=Recent)
    _allowances: Recent[str, Allowance] = field(default_factory=Recent)
    _provenance: Provenance = field(init=False)
    _attempts: Attempts = field(init=False)

    def __post_init__(self) -> None:
        self._provenance = Provenance(self.api, self.store, self.key)
        self._attempts = Attempts(self.api, self.store, self.clock)

    async def book(self, moe: MoEDeployment, revision: int) -> Book:
        """The book that a choice is made from. ``revision``: what runs. Contents of what is over are not kept: that of
        the way back is asked for.

        Raises:
            KubeError: the API server did not tell it.
        """
        everything = self.store.book(moe.key)
        book = everything.for_choice(revision)
        # The last one: others were told of by the pass that went on from them.
        condemned = [each for each in everything.placements if each.revision <= revision and is_condemned(each)]
        if not condemned:
            return book
        base = condemned[-1].spec.content.base_revision
        name = placement_name(moe.metadata.name, base)
        try:
            live = await self.api.get(EXPERT_PLACEMENTS, moe.metadata.namespace, name)
            return book.replacing(base, ExpertPlacement.parse(live))
        except (NotFoundError, InvalidObjectError):
            return book.replacing(base, None)

    async def keep(self, moe: MoEDeployment, scene: Scene) -> KubeError | None:
        """Make the objects of a deployment say what ``scene`` shows.

        Returns:
            What the API server refuses of it, if anything.
        """
        book = self.store.book(moe.key)
        judgements = {**unlooked_at(book, scene.revision), **scene.choice.judgements}
        scene = replace(scene, choice=replace(scene.choice, judgements=judgements))
        return await self._attempts.make(moe.key, self._owed(moe, scene, book))

    async def propose(
        self,
        moe: MoEDeployment,
        content: PlacementContent,
        status: ExpertPlacementStatus,
        instead: Sequence[ExpertPlacement] = (),
    ) -> str | None:
        """Make the object of a proposal, Pending, and tell what it foretells. First those in ``instead`` are deleted,
        of which none may be left, unless somebody decides on it meanwhile.

        Returns:
            Why that was not done, if it was not.
        """
        key = self._key(moe, content)
        retract = [Attempt("retract", each.key, partial(self._retract, each)) for each in instead]
        refusal = await self._attempts.make(moe.key, retract)
        if refusal is None and any(self._known(each) for each in instead):
            return "a proposal that is to make room for it is still there; the next look proposes again"
        create = Attempt("create", key, partial(self._propose, moe, content, status))
        refusal = refusal or await self._attempts.make(moe.key, [create])
        if refusal:
            return str(refusal)
        made = self.store.book(moe.key).at(content.revision)
        if made and made.status.predicted == status.predicted and made.spec.content == content:
            return None
        return f"the API server did not take ExpertPlacement {key} and its status in time; the next look proposes again"

    async def approve(self, moe: MoEDeployment, placement: ExpertPlacement) -> KubeError | None:
        """Approve a proposal, in the state of it that is known.

        Returns:
            Why the API server refuses it, if it does.
        """
        attempt = Attempt("approve", placement.key, partial(self._decide, placement))
        return await self._attempts.make(moe.key, [attempt])

    async def tell_missing(self, deployment: str, now: datetime) -> None:
        """Tell placements that wait that there is no such MoEDeployment."""
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
        attempts = (Attempt("tell", each.key, partial(self._write, each, scene)) for each in book.ahead)
        await self._attempts.make(deployment, attempts)

    async def tell_unjudged(self, moe: MoEDeployment, scene: Scene) -> None:
        """Tell placements of which nothing was told yet that nothing can be judged; the others stay as they are."""
        book = self.store.book(moe.key)
        untold = [each for each in book.ahead if each.status.condition(PlacementConditionType.VALID) is None]
        judgements = {each.revision: NOT_JUDGED for each in untold}
        scene = replace(scene, choice=Choice(judgements=judgements), revision=0)
        attempts = (Attempt("tell", each.key, partial(self._tell, moe, each, scene)) for each in untold)
        await self._attempts.make(moe.key, attempts)

    def _owed(self, moe: MoEDeployment, scene: Scene, book: Book) -> Iterator[Attempt]:
        """What may have to be written, in the order in which it matters."""
        if scene.choice.record:
            key = self._key(moe, scene.choice.record.content)
            yield Attempt("create", key, partial(self._record, moe, scene, scene.choice.record))
        own = book.at(scene.revision)
        if own:
            yield Attempt("tell", own.key, partial(self._tell, moe, own, scene))
            yield Attempt("approve", own.key, partial(self._confirm, own, scene))
        beyond = {each.revision for each in book.beyond}
        for placement in _in_turn(book):
            if placement is not own and self._may_change(placement, placement.revision in beyond):
                yield Attempt("tell", placement.key, partial(self._tell, moe, placement, scene))
        for placement in to_prune(book.placements, scene.revision, moe.spec.rebalance.history_limit):
            yield Attempt("delete", placement.key, partial(self._delete, placement))

    @staticmethod
    def _key(moe: MoEDeployment, content: PlacementContent) -> str:
        return f"{moe.metadata.namespace}/{placement_name(moe.metadata.name, content.revision)}"

    async def _record(self, moe: MoEDeployment, scene: Scene, record: Record) -> bool:
        live = await self._create(moe, record.content, recorded_status(scene, record.moves))
        await self._approve(live)
        return True

    async def _propose(self, moe: MoEDeployment, content: PlacementContent, status: ExpertPlacementStatus) -> bool:
        await self._create(moe, content, status)
        return True

    async def _create(self, moe: MoEDeployment, content: PlacementContent, status: ExpertPlacementStatus) -> Json:
        metadata = child_metadata(moe, placement_name(moe.metadata.name, content.revision), COMPONENT_PLACEMENT)
        body = {
            "apiVersion": EXPERT_PLACEMENTS.api_version,
            "kind": EXPERT_PLACEMENTS.kind,
            "metadata": metadata | {"annotations": await self._provenance.seal(moe, content)},
            "spec": {
                "deploymentRef": {"name": moe.metadata.name},
                "decision": Decision.PENDING,
                "content": content.model_dump(mode="json", by_alias=True),
            },
        }
        live = await self.api.create(EXPERT_PLACEMENTS, body)
        self.store.put(live)
        live = await write_status(self.api, live, status, EXPERT_PLACEMENTS)
        self.store.put(live)
        return live

    def _known(self, placement: ExpertPlacement) -> Json | None:
        """The object as it is known now, unless another one has its name by now."""
        live = self.store.get(placement)
        return live if live and live["metadata"]["uid"] == placement.metadata.uid else None

    def _undecided(self, placement: ExpertPlacement) -> Json | None:
        """The object as it is known now, unless somebody has decided on it."""
        live = self._known(placement)
        return live if live and live["spec"].get("decision", Decision.PENDING) == Decision.PENDING else None

    async def _decide(self, placement: ExpertPlacement) -> bool:
        approves = await self._approve_undecided(placement)
        if approves:
            self._provenance.approved(placement)
        return approves

    async def _confirm(self, own: ExpertPlacement, scene: Scene) -> bool:
        """Note that what runs was decided on, in the object that was compared with it, in the state that is known."""
        compared = scene.choice.standing is Standing.EXPRESSED and own.metadata.uid == scene.own_uid
        return compared and await self._approve_undecided(own)

    async def _approve_undecided(self, placement: ExpertPlacement) -> bool:
        live = self._undecided(placement)
        if live is None:
            return False
        await self._approve(live)
        return True

    async def _approve(self, live: Json) -> None:
        metadata = live["metadata"]
        patch = {
            "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
            "spec": {"decision": Decision.APPROVED},
        }
        approved = await self.api.merge_patch(EXPERT_PLACEMENTS, metadata["namespace"], metadata["name"], patch)
        self.store.put(approved)

    def _may_change(self, placement: ExpertPlacement, beyond: bool) -> bool:
        """Whether there may be anything to write: of many that are at their end, or not looked at, there is not."""
        if placement.status.observed_generation != placement.metadata.generation or self._is_new(placement):
            return True
        valid = placement.status.condition(PlacementConditionType.VALID)
        passed_over = beyond and valid is not None and valid.reason == PlacementReason.TOO_MANY_WAIT
        return not (passed_over or phase_of(placement).is_end)

    def _is_new(self, placement: ExpertPlacement) -> bool:
        """Whether the object may not go with its MoEDeployment yet, as when it was there first."""
        valid = placement.status.condition(PlacementConditionType.VALID)
        orphan = valid is not None and valid.reason == PlacementReason.DEPLOYMENT_MISSING
        unseen = placement.status.observed_generation in _UNSEEN
        return (unseen or orphan) and self._provenance.origin(placement) is None

    async def _tell(self, moe: MoEDeployment, placement: ExpertPlacement, scene: Scene) -> bool:
        adopts = self._is_new(placement)
        if adopts:
            await self._provenance.adopt(moe, placement)
        approved_by = await self._provenance.approver(placement)
        return await self._write(placement, scene, moe, approved_by) or adopts

    async def _write(
        self,
        placement: ExpertPlacement,
        scene: Scene,
        moe: MoEDeployment | None = None,
        approved_by: Origin | None = None,
    ) -> bool:
        origin = self._provenance.origin(placement) or Origin.PERSON
        status = next_status(placement, scene, origin, approved_by)
        live, now = self._known(placement), self.clock()
        if live is None or not self._is_due(placement, status, now):
            return False
        self.store.put(await write_status(self.api, live, status, EXPERT_PLACEMENTS))
        self._written.put(placement.metadata.uid, now)
        note = event_of(placement, status)
        if note:
            await self.events.record(moe if moe and concerns_deployment(placement, status) else placement, note)
        if status.phase is Phase.ROLLED_BACK:
            self.rolled_back(status.origin or origin)
        return True

    def _is_due(self, placement: ExpertPlacement, status: ExpertPlacementStatus, now: float) -> bool:
        if status == placement.status:
            return False
        if status.phase is not placement.status.phase:
            return True
        if _news(status) != _news(placement.status):
            allowance = self._allowances.get_or_make(placement.metadata.uid, _new_allowance)
            if allowance.wait(now) > 0.0:
                return False
            allowance.take(now)
            return True
        wait = PROGRESS_SECONDS if status.phase is Phase.MIGRATING else FIGURES_SECONDS
        written = self._written.get(placement.metadata.uid)
        return written is None or now - written >= wait

    async def _delete(self, placement: ExpertPlacement, version: str | None = None) -> bool:
        """Delete an object. ``version``: only in this one; None for any."""
        metadata = placement.metadata
        await self.api.delete(EXPERT_PLACEMENTS, metadata.namespace, metadata.name, metadata.uid, version)
        self.store.forget(placement.key)
        return True

    async def _retract(self, placement: ExpertPlacement) -> bool:
        """Delete a proposal in the state that is known: if somebody has decided on it meanwhile it stays."""
        live = self._undecided(placement)
        return live is not None and await self._delete(placement, live["metadata"]["resourceVersion"])


def _in_turn(book: Book) -> Iterator[ExpertPlacement]:
    """All of them, each once, those first on which somebody may wait."""
    first = (*book.in_force, *book.ahead)
    yield from first
    shown = {each.revision for each in first}
    yield from (each for each in book.placements if each.revision not in shown)


def _news(status: ExpertPlacementStatus) -> ExpertPlacementStatus:
    """A status without what changes at every look."""
    conditions = tuple(each.model_copy(update={"message": ""}) for each in status.conditions)
    return status.model_copy(update={"progress": None, "balance": None, "fan_out": None, "conditions": conditions})
