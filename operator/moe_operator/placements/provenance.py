"""Who wrote and who approved an ExpertPlacement. Its status says so, which nobody but the operator writes; before that
does, the API server is asked who set the fields: a process that died before it could tell may have."""

from __future__ import annotations

from dataclasses import dataclass, field

from moe_operator.api import ExpertPlacement, MoEDeployment
from moe_operator.api.names import FIELD_MANAGER
from moe_operator.api.placement import Decision, Origin
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.children import owner_reference
from moe_operator.kube.managed_fields import was_set_by
from moe_operator.kube.resources import EXPERT_PLACEMENTS
from moe_operator.placements.book import is_proposal
from moe_operator.placements.store import PlacementStore
from moe_operator.recent import Recent


@dataclass(slots=True)
class Provenance:
    """Remembers by uid what was asked; losing it costs a question."""

    api: KubeApi
    store: PlacementStore
    _origins: Recent[str, Origin] = field(default_factory=Recent)
    _approvers: Recent[str, Origin] = field(default_factory=Recent)

    def origin(self, placement: ExpertPlacement) -> Origin | None:
        """Who wrote it, as far as that was asked."""
        return self._origins.get(placement.metadata.uid)

    async def adopt(self, moe: MoEDeployment, placement: ExpertPlacement) -> None:
        """Ask who wrote it, and have what a person wrote go with its MoEDeployment too."""
        live = await self._metadata(placement)
        origin = _who(live, "f:content")
        owners = live.get("ownerReferences", [])
        if not any(owner["uid"] == moe.metadata.uid for owner in owners):
            owner = owner_reference(moe, controller=not any(each.get("controller") for each in owners))
            patch = {"metadata": {"resourceVersion": live["resourceVersion"], "ownerReferences": [*owners, owner]}}
            namespace, name = placement.metadata.namespace, placement.metadata.name
            self.store.put(await self.api.merge_patch(EXPERT_PLACEMENTS, namespace, name, patch))
        self._origins.put(placement.metadata.uid, origin)

    async def approver(self, placement: ExpertPlacement) -> Origin | None:
        """Who approved a proposal."""
        uid, told = placement.metadata.uid, placement.status.approved_by
        if told or not is_proposal(placement) or placement.spec.decision is not Decision.APPROVED:
            return told
        known = self._approvers.get(uid)
        if known is None:
            known = _who(await self._metadata(placement), "f:decision")
            self._approvers.put(uid, known)
        return known

    def approved(self, placement: ExpertPlacement) -> None:
        """This process has approved it."""
        self._approvers.put(placement.metadata.uid, Origin.OPERATOR)

    async def _metadata(self, placement: ExpertPlacement) -> Json:
        metadata = placement.metadata
        return await self.api.get_metadata(EXPERT_PLACEMENTS, metadata.namespace, metadata.name)


def _who(metadata: Json, field_name: str) -> Origin:
    ours = was_set_by(metadata.get("managedFields", []), FIELD_MANAGER, "f:spec", field_name)
    return Origin.OPERATOR if ours else Origin.PERSON
