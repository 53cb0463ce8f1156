"""Who wrote and who approved an ExpertPlacement. Its status says so, which nobody but the operator writes. Before that
does, its seal says that a process of the operator's wrote it, which died before it could tell; and the API server is
asked under which name the decision was set."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from moe_operator.api import ExpertPlacement, MoEDeployment, PlacementContent
from moe_operator.api.names import ANNOTATION_SEAL, FIELD_MANAGER
from moe_operator.api.placement import Decision, Origin
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.children import owner_reference
from moe_operator.kube.errors import NameConflictError
from moe_operator.kube.managed_fields import was_set_by
from moe_operator.kube.resources import EXPERT_PLACEMENTS
from moe_operator.placements.book import is_proposal
from moe_operator.placements.seal import is_sealed, seal
from moe_operator.placements.store import PlacementStore
from moe_operator.recent import Recent


@dataclass(slots=True)
class Provenance:
    """Remembers by uid what was asked; losing it costs a question."""

    api: KubeApi
    store: PlacementStore
    key: Callable[[MoEDeployment], Awaitable[str]]
    _origins: Recent[str, Origin] = field(default_factory=Recent)
    _approvers: Recent[str, Origin] = field(default_factory=Recent)

    def origin(self, placement: ExpertPlacement) -> Origin | None:
        """Who wrote the placement, as far as that was asked."""
        return self._origins.get(placement.metadata.uid)

    async def adopt(self, moe: MoEDeployment, placement: ExpertPlacement) -> None:
        """Ask who wrote the placement, and have what a person wrote go with its MoEDeployment too."""
        live = await self._metadata(placement)
        origin = await self._author(moe, placement, live)
        owners = live.get("ownerReferences", [])
        if not any(owner["uid"] == moe.metadata.uid for owner in owners):
            owner = owner_reference(moe, controller=not any(each.get("controller") for each in owners))
            patch = {"metadata": {"resourceVersion": live["resourceVersion"], "ownerReferences": [*owners, owner]}}
            namespace, name = placement.metadata.namespace, placement.metadata.name
            self.store.put(await self.api.merge_patch(EXPERT_PLACEMENTS, namespace, name, patch))
        self._origins.put(placement.metadata.uid, origin)

    async def seal(self, moe: MoEDeployment, content: PlacementContent) -> dict[str, str]:
        """Annotations of an object that is the operator's; none where the key is somebody else's.

        Raises:
            KubeError: the API server does not tell the key.
        """
        try:
            return {ANNOTATION_SEAL: seal(await self.key(moe), moe.metadata.namespace, content)}
        except NameConflictError:
            return {}

    async def _author(self, moe: MoEDeployment, placement: ExpertPlacement, live: Json) -> Origin:
        told = live.get("annotations", {}).get(ANNOTATION_SEAL, "")
        try:
            ours = told and is_sealed(told, await self.key(moe), moe.metadata.namespace, placement.spec.content)
        except NameConflictError:
            ours = False
        return Origin.OPERATOR if ours else Origin.PERSON

    async def approver(self, placement: ExpertPlacement) -> Origin | None:
        """Who approved a proposal."""
        uid, told = placement.metadata.uid, placement.status.approved_by
        if told or not is_proposal(placement) or placement.spec.decision is not Decision.APPROVED:
            return told
        known = self._approvers.get(uid)
        if known is None:
            known = _who_decided(await self._metadata(placement))
            self._approvers.put(uid, known)
        return known

    def approved(self, placement: ExpertPlacement) -> None:
        """Note that this process has approved a proposal."""
        self._approvers.put(placement.metadata.uid, Origin.OPERATOR)

    async def _metadata(self, placement: ExpertPlacement) -> Json:
        metadata = placement.metadata
        return await self.api.get_metadata(EXPERT_PLACEMENTS, metadata.namespace, metadata.name)


def _who_decided(metadata: Json) -> Origin:
    ours = was_set_by(metadata.get("managedFields", []), FIELD_MANAGER, "f:spec", "f:decision")
    return Origin.OPERATOR if ours else Origin.PERSON
