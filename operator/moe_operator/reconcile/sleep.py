"""Puts a deployment to sleep where ``idleness`` says that it is time."""

from __future__ import annotations

from dataclasses import dataclass

from moe_operator.api import MoEDeploymentStatus, Reason
from moe_operator.api.names import SLEEP_FIELD_MANAGER
from moe_operator.kube.api import KubeApi
from moe_operator.kube.events import EventNote, EventRecorder
from moe_operator.kube.objects import version_as_judged
from moe_operator.kube.resources import MOE_DEPLOYMENTS
from moe_operator.reconcile.idleness import is_due
from moe_operator.reconcile.world import World


@dataclass(frozen=True, slots=True)
class Sleep:
    """Writes the number of shards, and tells of it."""

    api: KubeApi
    events: EventRecorder

    async def turn(self, world: World, told: MoEDeploymentStatus) -> None:
        """One pass, of which ``told`` is the status.

        The number of shards is written by ``/scale`` as a field manager of its own, and only where the object is as it
        was judged: whoever scales in between, or later, has the last word.

        Raises:
            ConflictError: somebody wrote in between.
        """
        moe = world.moe
        if moe.spec.sleep is None or not is_due(moe, told, world.report, world.now):
            return
        version = await version_as_judged(self.api, moe)
        if version is None:
            return
        namespace, name = moe.metadata.namespace, moe.metadata.name
        await self.api.scale(MOE_DEPLOYMENTS, namespace, name, 0, version, SLEEP_FIELD_MANAGER)
        why = (
            f"nobody has asked anything for {moe.spec.sleep.after_idle} (spec.sleep.afterIdle): spec.experts.shards is "
            f"set from {moe.spec.experts.shards} to 0"
        )
        await self.events.record(moe, EventNote("Normal", Reason.FELL_ASLEEP, why, action="Scale"))
