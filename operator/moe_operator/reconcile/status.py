"""The status of a MoEDeployment. Pure; written by the reconciler where it differs from what is there."""

from __future__ import annotations

from moe_contract.memory import shard_bytes
from moe_contract.report import DirectoryReport
from moe_operator.api import MoEDeploymentStatus
from moe_operator.api.names import shard_selector
from moe_operator.api.status import MemoryStatus, ModelStatus, PlacementStatus
from moe_operator.finding import Finding
from moe_operator.reconcile.conditions import next_conditions
from moe_operator.reconcile.costs import next_cost
from moe_operator.reconcile.figures import measured, steadied
from moe_operator.reconcile.idleness import next_sleep
from moe_operator.reconcile.intent import Intent, Step
from moe_operator.reconcile.load import next_load
from moe_operator.reconcile.progress import ready_shards
from moe_operator.reconcile.room import SPARE, room_of
from moe_operator.reconcile.world import World
from moe_operator.text import on_one_line


def next_status(world: World, intent: Intent, problem: Finding | None) -> MoEDeploymentStatus:
    """What to tell of the world. Fields that cannot be seen now stay as they were told last."""
    before = world.moe.status
    # What runs another model is not told of: it is on its way out.
    report = None if intent.step is Step.REPLACE else world.report
    slots = intent.target.slots_per_shard or before.slots_per_shard
    return MoEDeploymentStatus(
        observed_generation=world.moe.metadata.generation,
        url=_url(world),
        shards=len(world.shard_applications) if world.runtime.is_known else before.shards,
        ready_shards=ready_shards(world, report) if report else 0,
        selector=shard_selector(world.moe.metadata.name, world.runtime.pod_labels),
        slots_per_shard=slots,
        model=_model(report) or (None if intent.step is Step.REPLACE else before.model),
        memory=_memory(world, slots) if report else before.memory,
        placement=_placement(before.placement, report) if report else before.placement,
        load=None if intent.step is Step.REPLACE else next_load(before.load, report, world.now),
        cost=next_cost(world),
        sleep=next_sleep(world.moe),
        conditions=next_conditions(world, intent, problem),
    )


def _url(world: World) -> str | None:
    """Of what runs: a route that the spec wishes for may be somebody else's."""
    if world.core:
        return world.moe.url_at(on_one_line(world.core.route_prefix or world.moe.route_prefix))
    if not world.runtime.is_known and world.moe.status.url:
        return world.moe.status.url
    return world.moe.url_at(world.moe.route_prefix)


def _model(report: DirectoryReport | None) -> ModelStatus | None:
    if report is None or report.model is None:
        return None
    found = report.model.model_dump()
    return ModelStatus.model_validate({k: on_one_line(v) if isinstance(v, str) else v for k, v in found.items()})


def _memory(world: World, slots: int | None) -> MemoryStatus | None:
    facts, before = world.facts, world.moe.status.memory
    if facts is None or not slots:
        return before
    room = room_of(world, facts)
    if room is None:
        return MemoryStatus(needed=shard_bytes(facts, slots, SPARE))
    return MemoryStatus(needed=shard_bytes(facts, slots, SPARE), usable=room.usable, slots=room.slots)


def _placement(before: PlacementStatus | None, report: DirectoryReport) -> PlacementStatus | None:
    if report.placement is None:
        return before
    figures = measured(report)
    earlier = before if before and (before.revision, before.epoch) == (report.revision, report.epoch) else None
    return PlacementStatus(
        revision=report.revision,
        epoch=report.epoch,
        balance=steadied(earlier.balance if earlier else None, figures.shard_balance if figures else None),
        fan_out=steadied(earlier.fan_out if earlier else None, figures.fan_out if figures else None),
    )
