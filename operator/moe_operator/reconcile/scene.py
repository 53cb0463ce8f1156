"""What the ExpertPlacements of a deployment are told by: what a pass saw and decided. Pure."""

from __future__ import annotations

from moe_operator.api import MoEDeploymentStatus
from moe_operator.api.placement import MigrationProgress
from moe_operator.api.status import TIME_FORMAT
from moe_operator.placements.story import Scene
from moe_operator.placements.trial import Terms
from moe_operator.reconcile.intent import Intent
from moe_operator.reconcile.world import World


def scene_of(world: World, intent: Intent, status: MoEDeploymentStatus) -> Scene:
    """``status`` is what is told of the deployment."""
    placed = status.placement
    own = world.book.at(world.target.revision)
    counted = placed if placed and placed.revision == world.target.revision else None
    return Scene(
        choice=intent.choice,
        revision=world.target.revision,
        settled=world.settled,
        progress=_progress(world),
        bytes_per_expert=status.model.bytes_per_expert if status.model else None,
        balance=counted.balance if counted else None,
        fan_out=counted.fan_out if counted else None,
        now=world.now.strftime(TIME_FORMAT),
        own_uid=own.metadata.uid if own else None,
        epochs=world.report.traffic.epochs if world.report else (),
        in_force=world.report.epoch if world.report else 0,
        terms=Terms.of(world.moe),
    )


def _progress(world: World) -> MigrationProgress | None:
    report = world.report
    if report is None or report.revision != world.target.revision:
        return None
    return MigrationProgress(copied=report.progress.copied, total=report.progress.total, epoch=report.epoch)
