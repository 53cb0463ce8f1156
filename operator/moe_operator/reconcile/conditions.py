"""The conditions of a MoEDeployment. Pure: the world, the intent and what is wrong in, its conditions out.

Nothing in them changes while the world does not: no times but those of transitions, no counts but of progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from moe_contract.applications import API, ATTENTION, DIRECTORY
from moe_contract.report import NOT_ADAPTIVE, NOT_FP8, NOT_RECORDED, AttentionReport
from moe_operator.api import Condition, ConditionType, DeletionPolicy, MoEDeploymentStatus, Reason, RebalanceMode
from moe_operator.api.names import ANNOTATION_DRAIN
from moe_operator.api.reasons import RESTING
from moe_operator.api.status import ConditionStatus
from moe_operator.finding import Finding
from moe_operator.rebalance.schedule import standstill
from moe_operator.reconcile.diagnosis import problems_of, runtime_problem
from moe_operator.reconcile.draining import drained
from moe_operator.reconcile.history import History
from moe_operator.reconcile.idleness import sleeps
from moe_operator.reconcile.intent import Intent, Step
from moe_operator.reconcile.model_change import SERVING_GRACE_SECONDS
from moe_operator.reconcile.placing import drain_of, wanted_shards
from moe_operator.reconcile.progress import counted, has_its_experts, next_stage, ready_shards, serves, settled
from moe_operator.reconcile.scaling import scaling_conditions
from moe_operator.reconcile.settlement import PASSING, on_the_way, settlement, stuck, tried_again
from moe_operator.reconcile.world import World
from moe_operator.text import some

_NAMES_SHOWN, _NAME_SHOWN = 8, 100


def deleting_status(history: History, waiting: Finding) -> MoEDeploymentStatus:
    """The status while the object is being deleted: what that waits for."""
    deleting = Finding(Reason.DELETING, waiting.message)
    failing = waiting.reason != Reason.DELETING
    degraded = waiting if failing else Finding(Reason.AS_EXPECTED, "nothing is wrong")
    return history.status_with(
        history.condition(ConditionType.READY, "False", deleting),
        history.condition(ConditionType.PROGRESSING, "True", deleting),
        history.condition(ConditionType.DEGRADED, "True" if failing else "False", degraded),
        *on_the_way(history, deleting),
    )


def kept_by_others(finalizers: Sequence[str]) -> Finding:
    """The finding that a deletion waits for nothing of the operator's any more."""
    names = some([name[:_NAME_SHOWN] for name in finalizers], _NAMES_SHOWN)
    return Finding(
        Reason.DELETING, f"the operator has nothing left to do; finalizers of others keep the object: {names}"
    )


def invalid_status(history: History, message: str) -> MoEDeploymentStatus:
    """The status of an object that the operator's types cannot read."""
    why = Finding(Reason.SPEC_INVALID, message)
    return history.status_with(
        history.condition(ConditionType.READY, "False", why),
        history.condition(ConditionType.PROGRESSING, "False", why),
        history.condition(ConditionType.DEGRADED, "True", why),
        *stuck(history, why),
    )


def failed_status(history: History, why: Finding, seconds: float) -> MoEDeploymentStatus:
    """The status of an object over which no pass has come to an end for ``seconds``: how it is, is not known any more.

    What serves goes on serving, so Ready is left as it is at first, as it is when a directory does not report.
    """
    degraded = history.condition(ConditionType.DEGRADED, "True", why)
    told = history.status_with(degraded)
    unknown = [
        history.condition(kind, "Unknown", why)
        for kind in (ConditionType.READY, ConditionType.PROGRESSING)
        if seconds >= SERVING_GRACE_SECONDS or told.condition(kind) is None
    ]
    return history.status_with(*unknown, degraded, *tried_again(history, told, why))


def next_conditions(world: World, intent: Intent, problem: Finding | None) -> tuple[Condition, ...]:
    """All conditions, in the order in which they are shown."""
    told = (
        _ready(world, intent, problem),
        _progressing(world, intent, problem),
        _degraded(world, problem),
        _model_valid(world, intent),
        _runtime_reachable(world),
    )
    kstatus = settlement(_history(world), world.moe, MoEDeploymentStatus(conditions=told), problem)
    rest = (
        _drained(world),
        _rebalance_paused(world),
        _data_plane_behind(world, intent),
        _recording(world),
        _adaptive_routing(world),
        _fp8_wire(world),
        _evictions(world),
        scaling_conditions(world, _history(world)),
        sleeps(world.moe, _history(world), world.runtime.holds_requests, world.runtime.not_woken),
    )
    return (*told, *kstatus, *chain.from_iterable(rest))


def _rebalance_paused(world: World) -> Iterator[Condition]:
    """The condition, where spec.rebalance asks for looks at the traffic."""
    if world.moe.spec.rebalance.mode is RebalanceMode.OFF:
        return
    why = standstill(world.moe, world.now)
    happens = Finding(Reason.AS_EXPECTED, "the traffic is looked at as spec.rebalance says")
    yield _condition(world, ConditionType.REBALANCE_PAUSED, "True" if why else "False", why or happens)


def _data_plane_behind(world: World, intent: Intent) -> Iterator[Condition]:
    """The condition, where the data plane says what it knows, and is to be told something else."""
    wanted = intent.desired
    if wanted is None or world.report is None:
        return
    configs = {API: wanted.api, ATTENTION: wanted.attention, DIRECTORY: wanted.directory, "model": wanted.model}
    unknown = [f"{name}.{field}" for name, of in configs.items() for field in of.withheld(wanted.contract)]
    if unknown:
        why = f"the data plane is of an older release and is not told {some(unknown, _NAMES_SHOWN)}: install this one"
        finding = Finding(Reason.OLDER_RELEASE, f"{why} on Ray's nodes, and restart what runs")
        yield _condition(world, ConditionType.DATA_PLANE_BEHIND, "True", finding)


def _recording(world: World) -> Iterator[Condition]:
    """The condition, where spec.rebalance.record asks for files."""
    record = world.moe.spec.rebalance.record
    if record is not None:
        where = Finding(Reason.RECORDING, f"attention replicas write files of live traffic to {record.path}")
        failing = Reason.NOT_RECORDED, NOT_RECORDED
        yield _of_replicas(world, ConditionType.RECORDING, failing, lambda _: where)


def _adaptive_routing(world: World) -> Iterator[Condition]:
    """The condition, where spec.routing asks for it."""
    if world.moe.spec.routing.config is not None:
        failing = Reason.NOT_ADAPTIVE, NOT_ADAPTIVE
        yield _of_replicas(world, ConditionType.ADAPTIVE_ROUTING, failing, _left_out)


def _left_out(replicas: Sequence[AttentionReport]) -> Finding | None:
    """None while a replica does not leave any out yet."""
    told = [each.adaptive for each in replicas if each.adaptive is not None]
    if len(told) < len(replicas):
        return None
    found = told[0]
    return Finding(
        Reason.ADAPTIVE,
        f"{found.pairs_saved:g}% of the pairs are left out; on {found.held_out_tokens} held-out tokens the loss grew "
        f"by {found.loss_increase:+.4f} (95%: {found.loss_low:+.4f} to {found.loss_high:+.4f})",
    )


def _fp8_wire(world: World) -> Iterator[Condition]:
    """The condition, where spec.experts.wire asks for it."""
    if world.moe.spec.experts.wire == "FP8":
        yield _of_replicas(world, ConditionType.FP8_WIRE, (Reason.NOT_FP8, NOT_FP8), _packed)


def _packed(replicas: Sequence[AttentionReport]) -> Finding | None:
    """None while a replica does not pack rows yet."""
    if any(each.wire != "FP8" for each in replicas):
        return None
    return Finding(Reason.FP8, "rows and sums travel as e4m3 with a scale each, to and from shards that know it")


def _of_replicas(
    world: World,
    kind: ConditionType,
    failing: tuple[Reason, str],
    happens: Callable[[Sequence[AttentionReport]], Finding | None],
) -> Condition:
    """Whether all attention replicas that answer do something beside that. A problem of one may be another one: then it
    is not known.

    Args:
        failing: the reason where one cannot, and how its problem begins then.
        happens: what they do; None where they have not begun.
    """
    ready = [replica for replica in world.report.attention if replica.ready] if world.report else []
    told = [each for each in ready if each.problem]
    unable = [each for each in told if each.problem and each.problem.startswith(failing[1])]
    if told:
        reason = failing[0] if unable else Reason.CONFIGURATION_REFUSED
        return _condition(world, kind, "False" if unable else "Unknown", Finding(reason, problems_of(unable or told)))
    if ready and (found := happens(ready)) is not None:
        return _condition(world, kind, "True", found)
    unknown = Finding(Reason.STARTING_ATTENTION, "no attention replica is known to answer, or one has not begun")
    return world.moe.status.condition(kind) or _condition(world, kind, "Unknown", unknown)


def _evictions(world: World) -> Iterator[Condition]:
    """The condition, while the directory does not tell what must not be evicted."""
    if (told := world.runtime.evictions) is not None:
        opened: ConditionStatus = "True" if told.reason == Reason.EVICTIONS_OPENED else "False"
        yield _condition(world, ConditionType.EVICTIONS_ALLOWED, opened, told)


def _ready(world: World, intent: Intent, problem: Finding | None) -> Condition:
    if serves(world, intent):
        return _condition(world, ConditionType.READY, "True", Finding(Reason.AVAILABLE, _capacity(world)))
    rest = _rest(world, problem)
    if rest:
        return _condition(world, ConditionType.READY, "True", rest)
    stage = None if world.moe.spec.suspend else next_stage(world, intent)
    # A foreign writer was put right: it is not what is being waited for.
    first, second = (stage, problem) if problem and problem.reason == Reason.FOREIGN_WRITER else (problem, stage)
    why = first or second or Finding(Reason.LOADING_EXPERTS, "the routing table is not complete yet")
    return _condition(world, ConditionType.READY, "False", why)


def _capacity(world: World) -> str:
    if world.report is None:
        return "requests are answered, as far as is known; the directory does not report"
    ready = ready_shards(world, world.report)
    shards = counted(ready, "expert shard")
    attention = counted(sum(replica.ready for replica in world.report.attention), "attention replica")
    told_broken = sum(map(has_its_experts, world.report.shards)) - ready
    doubt = f"; {told_broken} more answer, as the directory reports, which Serve calls failed or unhealthy"
    return f"{shards} and {attention} answer requests{doubt if told_broken else ''}"


def _rest(world: World, problem: Finding | None) -> Finding | None:
    """Why nothing is served, and all is well: that was asked for. None where something shall be served, or may still
    run."""
    spec = world.moe.spec
    if spec.experts.shards == 0 and _nothing_runs(world):
        return Finding(Reason.ASLEEP, "spec.experts.shards is 0; scale up to wake it")
    if spec.suspend and (_nothing_runs(world) or problem is None):
        return Finding(Reason.SUSPENDED, "spec.suspend is true, and nothing is being served")
    return None


def _nothing_runs(world: World) -> bool:
    """Whether nothing of the deployment runs; where that cannot be seen, whether its status said so, or it has no
    finalizer and so needs no cleanup."""
    if world.runtime.is_known:
        return not world.runtime.applications
    ready = world.moe.status.condition(ConditionType.READY)
    rested = ready is not None and ready.status == "True" and ready.reason in RESTING
    never_ran = world.moe.spec.deletion_policy == DeletionPolicy.DELETE and not world.moe.has_cleanup_finalizer
    return rested or never_ran


def _progressing(world: World, intent: Intent, problem: Finding | None) -> Condition:
    kind = ConditionType.PROGRESSING
    if world.moe.spec.suspend:
        return _condition(
            world, kind, "False", Finding(Reason.SUSPENDED, "spec.suspend is true: nothing is written to Ray")
        )
    if problem and problem.reason not in PASSING:
        return _condition(world, kind, "False", problem)
    before = world.moe.status.condition(kind)
    seen = world.report is not None and world.runtime.is_known
    if before and not seen and serves(world, intent):
        return before
    stage = next_stage(world, intent)
    if stage:
        return _condition(world, kind, "True", stage)
    rest = _rest(world, problem)
    if rest:
        return _condition(world, kind, "False", rest)
    return _condition(world, kind, "False", settled(world))


def _degraded(world: World, problem: Finding | None) -> Condition:
    if problem:
        return _condition(world, ConditionType.DEGRADED, "True", problem)
    return _condition(world, ConditionType.DEGRADED, "False", Finding(Reason.AS_EXPECTED, "nothing is wrong"))


def _model_valid(world: World, intent: Intent) -> Condition:
    kind = ConditionType.MODEL_VALID
    seen = None if intent.step is Step.REPLACE else world.candidate if intent.change else world.report
    if seen and seen.model_problem:
        return _condition(world, kind, "False", Finding.of(seen.model_problem))
    if seen and seen.model:
        m = seen.model
        what = f"{m.architecture}: {m.layers} MoE layers of {m.experts} experts, top-{m.top_k}, served in {m.dtype}"
        held = ", experts held as FP8" if m.weights == "FP8" else ""
        return _condition(world, kind, "True", Finding(Reason.MODEL_READ, what + held))
    before = world.moe.status.condition(kind)
    known = not world.runtime.is_known or world.core or intent.step is Step.SLEEP
    if before and not intent.change and intent.step is not Step.REPLACE and known:
        return before
    return _condition(
        world, kind, "Unknown", Finding(Reason.INSPECTING_MODEL, "Ray's side has not looked at the model yet")
    )


def _runtime_reachable(world: World) -> Condition:
    kind = ConditionType.RUNTIME_REACHABLE
    if world.runtime.answers:
        return _condition(world, kind, "True", world.runtime.answers)
    problem = runtime_problem(world)
    if problem:
        return _condition(world, kind, "False", problem)
    before = world.moe.status.condition(kind)
    if world.runtime.unreachable and before:
        return before
    why = world.key_problem or Finding(Reason.RAY_UNREACHABLE, "Ray was not asked yet")
    return _condition(world, kind, "Unknown", why)


def _drained(world: World) -> Iterator[Condition]:
    """The condition, where anybody asks for a drain."""
    kind, report = ConditionType.DRAINED, world.report
    asked = bool(world.moe.metadata.annotations.get(ANNOTATION_DRAIN, "").strip())
    if world.moe.spec.experts.shards == 0 and asked:
        yield _condition(world, kind, "True", Finding(Reason.ASLEEP, "spec.experts.shards is 0: no shard runs"))
    elif world.facts is None or report is None:
        before = world.moe.status.condition(kind)
        if asked:
            unknown = Finding(Reason.DRAINING, "which shards hold what is not known now: the directory does not tell")
            yield before or _condition(world, kind, "Unknown", unknown)
    elif (drain := drain_of(world, world.facts)).is_wanted:
        done, why = drained(drain, wanted_shards(world), report, world.target.revision)
        yield _condition(world, kind, "True" if done else "False", why)


def _condition(world: World, kind: ConditionType, status: ConditionStatus, why: Finding) -> Condition:
    return _history(world).condition(kind, status, why)


def _history(world: World) -> History:
    return History(world.moe.status, world.moe.metadata.generation, world.now)
