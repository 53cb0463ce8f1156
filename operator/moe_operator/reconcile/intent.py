"""What shall run, and the next step towards it. Pure: the observed world in, applications out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from moe_contract.applications import ApiConfig, AttentionConfig, DirectoryConfig, RecordConfig, ReplicaScale
from moe_contract.rendering import Desired
from moe_operator.api import MoEDeployment, Reason
from moe_operator.api.names import reserved_for
from moe_operator.api.rebalance import Record
from moe_operator.api.spec import Api, Attention
from moe_operator.finding import Finding
from moe_operator.kube.secrets import KeyHashes
from moe_operator.placements.choice import Choice
from moe_operator.reconcile.model_change import ModelChange, waiting_change
from moe_operator.reconcile.placing import Goal, next_goal, unchanged, unjudged, unreported
from moe_operator.reconcile.resources import actor_options
from moe_operator.reconcile.world import World

RETRY_SECONDS = 30.0
"""An application that could not be started is removed, and so tried anew, this long after that was first seen."""


class Step(Enum):
    """What a pass does with what runs."""

    NOTHING = auto()
    """Something is missing to decide by, or the spec says to write nothing."""
    SLEEP = auto()
    """Remove everything: no shards are wanted."""
    REPLACE = auto()
    """Remove everything that runs another model: shards of two models must never answer the same request."""
    RUN = auto()
    """Run what the spec asks for."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a pass has decided.

    Attributes:
        desired: all that this deployment shall run; None where nothing shall, and with ``NOTHING``.
        without: applications of ``desired`` that are left out for now, so that they are made anew.
        target: the placement wanted.
        problem: why the spec cannot be met, with this model or at all; what ran before goes on.
        change: a change of the model that waits; until it is made the former model runs.
        choice: what was chosen among the ExpertPlacements.
    """

    step: Step
    desired: Desired | None = None
    without: frozenset[str] = frozenset()
    target: DirectoryConfig = field(default_factory=DirectoryConfig)
    problem: Finding | None = None
    change: ModelChange | None = None
    choice: Choice = field(default_factory=Choice)


def next_intent(world: World) -> Intent:
    """Decide what to do next with a deployment that is not being deleted."""
    if world.moe.spec.suspend or not world.runtime.is_known:
        return Intent(Step.NOTHING, target=world.target)
    if world.moe.spec.experts.shards == 0:
        return Intent(Step.SLEEP)
    reserved = _reserved_prefix(world.moe)
    if reserved:
        return Intent(Step.NOTHING, target=world.target, problem=reserved)
    change = waiting_change(world) if _runs_another_model(world) else None
    if (_runs_another_model(world) and change is None) or _is_on_its_way_out(world):
        return Intent(Step.REPLACE)
    if world.keys is None:
        return Intent(Step.NOTHING, target=world.target)
    goal = _next_goal(world, change)
    if world.is_unreadable and _removes_shards(world, goal.config):
        problem = goal.problem or _unreadable(world)
        return Intent(Step.NOTHING, target=world.target, problem=problem, change=change, choice=goal.choice)
    dead = _due_for_retry(world)
    return Intent(
        Step.RUN, _desired(world, world.keys, goal.config), dead, goal.config, goal.problem, change, goal.choice
    )


def _reserved_prefix(moe: MoEDeployment) -> Finding | None:
    """Why a route prefix is another namespace's."""
    first = reserved_for(moe.route_prefix, moe.metadata.namespace)
    if first is None:
        return None
    return Finding(
        Reason.ROUTE_PREFIX_RESERVED,
        f"spec.serving.routePrefix is {moe.route_prefix}: what is below /{first} belongs to the namespace of that "
        f"name; use one of a single segment, such as /{moe.metadata.name}, or one below /{moe.metadata.namespace}",
    )


def _next_goal(world: World, change: ModelChange | None) -> Goal:
    """While a change of the model waits, its experts stay where they are: other wishes are for the new model."""
    if change:
        return Goal(unchanged(world, world.model), change.problem, unjudged(world))
    return next_goal(world, world.facts) if world.facts else Goal(unchanged(world), choice=unreported(world))


def _removes_shards(world: World, wanted: DirectoryConfig) -> bool:
    kept = {ref.application for ref in wanted.shards}
    return any(application.name not in kept for application in world.shard_applications)


def _unreadable(world: World) -> Finding:
    return Finding(
        Reason.DIRECTORY_UNREACHABLE,
        f"what Serve has as user_config of the directory of {world.core_name} cannot be read, as of another release, "
        "and the directory does not tell what runs: nothing is written until it does. Where it cannot start, have all "
        f"made anew: kubectl scale moe/{world.moe.metadata.name} --replicas=0, and back once status.shards is 0; the "
        "placement comes back from its ExpertPlacement",
    )


def _runs_another_model(world: World) -> bool:
    return any(told.model != world.model for told in world.runtime.told.values())


def _is_on_its_way_out(world: World) -> bool:
    """Whether applications that this operator removed, and nobody wants back as they were, are still stopping."""
    return not world.runtime.told and bool(world.runtime.applications)


def _due_for_retry(world: World) -> frozenset[str]:
    """Applications to be made anew, since the runtime has given them up; the core application only while its directory
    does not report."""
    if world.report is not None:
        candidates = world.shard_applications
    else:
        candidates = (*world.shard_applications, *([world.core] if world.core else []))
    return frozenset(a.name for a in candidates if world.failed_seconds.get(a.name, 0.0) >= RETRY_SECONDS)


def _desired(world: World, keys: KeyHashes, target: DirectoryConfig) -> Desired:
    spec = world.moe.spec
    options = actor_options(world, [ref.index for ref in target.shards])
    return Desired(
        core=world.core_name,
        route_prefix=world.moe.route_prefix,
        model=world.running_model,
        api=ApiConfig(
            served_name=_served_name(world),
            max_context=spec.serving.max_context,
            generation_defaults=spec.serving.generation_defaults,
            allowed_origins=tuple(spec.serving.allowed_origins),
            api_key_sha256=keys.api,
            internal_key_sha256=keys.internal,
        ),
        attention=AttentionConfig(
            max_batch_tokens=spec.attention.limits.max_batch_tokens,
            max_running=spec.attention.limits.max_running,
            kv_cache_tokens=spec.attention.limits.kv_cache_tokens,
            queue_requests=spec.serving.queue.max_requests,
            queue_tokens=spec.serving.queue.max_tokens,
            statistics_seconds=spec.rebalance.every.total_seconds(),
            record=_record(spec.rebalance.record),
            routing=spec.routing.config,
            wire=spec.experts.wire,
        ),
        directory=target,
        api_scale=_scale(spec.api),
        attention_scale=_scale(spec.attention),
        slots={ref.index: _slots(world, ref.index, target) for ref in target.shards},
        max_bytes_per_second=spec.rebalance.bytes_per_second or 0,
        contract=world.contract,
        actor_options=options.by_deployment,
        shard_options=options.kept,
    )


def _scale(replicas: Api | Attention) -> ReplicaScale:
    return ReplicaScale(
        min_replicas=replicas.min_replicas,
        max_replicas=replicas.max_replicas,
        target_ongoing_requests=replicas.target_ongoing_requests,
    )


def _record(wanted: Record | None) -> RecordConfig | None:
    if wanted is None:
        return None
    return RecordConfig(path=wanted.path, sample_rows=wanted.sample_rows, max_bytes=wanted.bytes)


def _served_name(world: World) -> str:
    """The name of the model that runs: it must not answer to the name of the one that shall replace it."""
    if world.running_model == world.model:
        return world.moe.served_name
    return world.told(world.core_name).served_name or world.moe.served_name


def _slots(world: World, index: int, target: DirectoryConfig) -> int:
    """Slots per layer of shard ``index``. Until the directory has settled they are no fewer than the shard has: with
    fewer it could drop copies that are still asked for."""
    if world.settled and world.target.revision == target.revision:
        return target.slots_per_shard
    return max(target.slots_per_shard, world.told(world.shard_name(index)).slots_per_shard)
