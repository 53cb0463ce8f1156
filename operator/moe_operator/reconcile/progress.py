"""How far a deployment is, and whether it serves. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from moe_contract.report import DirectoryReport, Fetched, ShardReport
from moe_operator.api import ConditionType, Reason
from moe_operator.finding import Finding
from moe_operator.reconcile.intent import Intent, Step
from moe_operator.reconcile.model_change import believed_to_serve
from moe_operator.reconcile.placing import wanted_shards
from moe_operator.reconcile.world import World
from moe_operator.runtimes.port import ApplicationPhase

_BROKEN = (ApplicationPhase.UNHEALTHY, ApplicationPhase.FAILED)


def serves(world: World, intent: Intent) -> bool:
    """Whether requests are answered: every expert has a live copy, and an attention replica is ready."""
    if intent.step in (Step.SLEEP, Step.REPLACE):
        return False
    if world.report:
        return world.report.placement is not None and any(replica.ready for replica in world.report.attention)
    return believed_to_serve(world)


def has_its_experts(shard: ShardReport) -> bool:
    """Whether a shard answers and holds what it should."""
    return shard.phase == "Ready" and shard.held >= shard.wanted > 0 and shard.problem is None


def ready_shards(world: World, report: DirectoryReport) -> int:
    """Shards that have their experts and that the runtime does not call broken: it may know before the directory."""
    broken = {application.name for application in world.shard_applications if application.phase in _BROKEN}
    return sum(has_its_experts(shard) and world.shard_name(shard.index) not in broken for shard in report.shards)


def counted(count: int, noun: str, many: str = "") -> str:
    """``1 shard``, ``2 shards``; ``many`` where its plural is another."""
    return f"{count} {noun}" if count == 1 else f"{count} {many or noun + 's'}"


def shards_named(indices: Sequence[int], one: str, many: str) -> str:
    """``shard 1 <one>`` or ``shards 1, 2 <many>``."""
    if len(indices) == 1:
        return f"shard {indices[0]} {one}"
    return f"shards {', '.join(map(str, indices))} {many}"


def next_stage(world: World, intent: Intent) -> Finding | None:
    """What is being waited for on the way to the spec; None when nothing is."""
    if intent.step is Step.SLEEP:
        return _going_to_sleep(world)
    if intent.step is Step.REPLACE:
        return Finding(
            Reason.DEPLOYING_CORE, "the applications that run another model are being removed, then the new ones start"
        )
    if intent.change:
        return Finding(
            Reason.INSPECTING_MODEL,
            f"the directory looks at {world.moe.model_path} first; {world.running_model.path} is served until then",
        )
    if world.runtime.upgrading:
        return world.runtime.upgrading
    report = world.report
    if report is None:
        return _without_report(world)
    if report.model is None and report.model_problem is None:
        return Finding(Reason.INSPECTING_MODEL, _inspecting(report))
    return _restarting(intent) or _shards(world, intent) or _experts(world, intent) or _attention(world)


def _inspecting(report: DirectoryReport) -> str:
    if report.fetched is None:
        return "the directory is reading the model's config and tensor headers"
    return f"the model is being fetched to the directory's node: {_share(report.fetched)}"


def _share(fetched: Fetched) -> str:
    """In tenths, so that the status does not change all the time."""
    tenths = 10 * fetched.done // max(1, fetched.total)
    return f"{tenths * 10}% of {fetched.total / 2**30:.2f} GiB are there"


def _files(report: DirectoryReport) -> str:
    """Goes on after what is told; nothing where no files are being fetched."""
    return f"; files of the model are being fetched: {_share(report.fetched)}" if report.fetched else ""


def settled(world: World) -> Finding:
    """That nothing is waited for but what the user has to allow; and why more shards run than are asked for, if so."""
    if world.runtime.held:
        return world.runtime.held
    spec, running = world.moe.spec.experts, wanted_shards(world)
    if running <= spec.shards:
        return Finding(Reason.SETTLED, "what runs is what the spec asks for")
    return Finding(
        Reason.SETTLED,
        f"spec.experts.shards is {spec.shards}, and {running} run: so many are needed for "
        f"{counted(spec.copies.min, 'live copy', 'live copies')} of each expert (copies.min, slotsPerShard)",
    )


def _going_to_sleep(world: World) -> Finding | None:
    if world.runtime.applications:
        return Finding(Reason.SCALING, "the applications are being removed")
    return None


def _without_report(world: World) -> Finding:
    core = world.core
    if core is not None and core.phase is ApplicationPhase.RUNNING:
        return Finding(Reason.DEPLOYING_CORE, "the core application runs; its directory has not reported yet")
    return Finding(Reason.DEPLOYING_CORE, "the core application (api, attention, directory) is starting")


def _restarting(intent: Intent) -> Finding | None:
    """That shards go on with what they asked for before spec.experts.resources changed."""
    waiting = sorted(intent.desired.shard_options) if intent.desired else []
    if not waiting:
        return None
    named = shards_named(waiting, "goes on as it is", "go on as they are")
    said = f"spec.experts.resources has changed: {named} until all others hold their experts"
    return Finding(Reason.RESTARTING, said)


def _shards(world: World, intent: Intent) -> Finding | None:
    if world.report is None:
        return None
    ready = {shard.index for shard in world.report.shards if shard.phase != "Starting"}
    waiting = [ref.index for ref in intent.target.shards if ref.index not in ready]
    if not waiting:
        return None
    return Finding(
        _while_serving(world, intent, Reason.DEPLOYING_SHARDS), shards_named(waiting, "is starting", "are starting")
    )


def _experts(world: World, intent: Intent) -> Finding | None:
    """Copies on their way; also the moment between a wish and its arrival at the directory."""
    leaving = _leaving(world)
    if world.report is None or (world.settled and world.target.revision == intent.target.revision and not leaving):
        return None
    message = _on_the_way(world.report, arrived=world.report.revision == intent.target.revision)
    if leaving:
        message = f"{shards_named(leaving, 'leaves', 'leave')}: {_last_of(world.report, leaving, message)}"
    return Finding(_while_serving(world, intent, Reason.LOADING_EXPERTS), message)


def _on_the_way(report: DirectoryReport, arrived: bool) -> str:
    """What the directory still does for the placement wanted."""
    progress = report.progress
    if not arrived:
        return "the directory is being told of the placement wanted"
    if progress.copied < progress.total:
        return f"{progress.copied} of {progress.total} expert copies are in place{_files(report)}"
    return f"all {progress.total} expert copies are in place; they come into use, and what they replace is freed"


def _last_of(report: DirectoryReport, leaving: Sequence[int], on_the_way: str) -> str:
    """What is waited for before shards that leave are gone."""
    if any(shard.held for shard in report.shards if shard.index in leaving):
        return f"emptied first, then removed; {on_the_way}"
    return "empty, to be removed"


def _while_serving(world: World, intent: Intent, otherwise: Reason) -> Reason:
    """``Scaling`` from a new wish until it is settled; a lost shard that comes back is not that."""
    before = world.moe.status.condition(ConditionType.PROGRESSING)
    scaling = before is not None and (before.status, before.reason) == ("True", Reason.SCALING)
    wished = intent.target.revision != world.target.revision
    return Reason.SCALING if serves(world, intent) and (wished or scaling) else otherwise


def _leaving(world: World) -> list[int]:
    """Shards that are there and not asked for. Their numbers have no gaps."""
    wanted, there = wanted_shards(world), {application.name for application in world.shard_applications}
    return [index for index in range(wanted, wanted + len(there)) if world.shard_name(index) in there]


def _attention(world: World) -> Finding | None:
    if world.report is None or any(replica.ready for replica in world.report.attention):
        return None
    said = {replica.problem for replica in world.report.attention if replica.problem}
    why = "; ".join(sorted(said)) or "they are starting"
    return Finding(Reason.STARTING_ATTENTION, f"no attention replica is ready: {why}{_files(world.report)}")
