"""What shall run on the Ray cluster, and the next step towards it. Pure: the observed world in, applications out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from moe_contract.applications import (
    API,
    EXPERTS,
    ApiConfig,
    AttentionConfig,
    CoreArgs,
    DirectoryConfig,
    ReplicaScale,
    ShardArgs,
    ShardConfig,
    render_core,
    render_shard,
)
from moe_operator.api import MoEDeployment, Reason
from moe_operator.api.spec import Api, Attention
from moe_operator.endpoint import HttpUrl
from moe_operator.reconcile.model_change import ModelChange, waiting_change
from moe_operator.reconcile.placing import Goal, next_goal, unchanged
from moe_operator.reconcile.world import Finding, KeyHashes, World, model_args

RETRY_SECONDS = 30.0
"""An application that Serve could not start is removed, and so tried anew, this long after that was first seen."""

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

Config = Mapping[str, Any]


class Step(Enum):
    """What this reconcile does with the Ray cluster."""

    NOTHING = auto()
    """Something is missing to decide by, or the spec says to write nothing."""
    SLEEP = auto()
    """Remove everything: no shards are wanted."""
    REPLACE = auto()
    """Remove everything that runs another model: shards of two models must never answer the same request."""
    RUN = auto()
    """Run what the spec asks for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision.

    Attributes:
        applications: all that this deployment shall run; None to leave it as it is.
        target: the placement wanted.
        problem: why the spec cannot be met, with this model or at all; what ran before goes on.
        change: of the model, if one waits; what runs until then is the former model.
    """

    step: Step
    applications: tuple[Config, ...] | None = None
    target: DirectoryConfig = field(default_factory=DirectoryConfig)
    problem: Finding | None = None
    change: ModelChange | None = None


def next_plan(world: World) -> Plan:
    """Decide what to do next; deletion is not decided here."""
    if world.moe.spec.suspend or world.serve is None:
        return Plan(Step.NOTHING, target=world.target)
    if world.moe.spec.experts.shards == 0:
        return Plan(Step.SLEEP, ())
    reserved = _reserved_prefix(world.moe)
    if reserved:
        return Plan(Step.NOTHING, target=world.target, problem=reserved)
    change = waiting_change(world) if _runs_another_model(world) else None
    if (_runs_another_model(world) and change is None) or _is_on_its_way_out(world):
        return Plan(Step.REPLACE, ())
    if world.keys is None:
        return Plan(Step.NOTHING, target=world.target)
    goal = _next_goal(world, change)
    applications = [_core(world, world.keys, goal.config)]
    applications += [_shard(world, ref.index, goal.config) for ref in goal.config.shards]
    dead = _due_for_retry(world)
    wanted = tuple(application for application in applications if application["name"] not in dead)
    return Plan(Step.RUN, wanted, goal.config, goal.problem, change)


def serve_http_options(moe: MoEDeployment) -> Config | None:
    """With what to start Serve on a Ray cluster where it does not run yet.

    Serve's default is all interfaces. Where the deployment reaches it on loopback, Ray is on this machine, and the API
    must not be open to the network unasked; elsewhere the address may be a proxy's, and the default stays.
    """
    serve = HttpUrl.parse(moe.ray_cluster.serve_url).endpoint
    if serve.host not in _LOOPBACK:
        return None
    return {"host": "127.0.0.1" if serve.host == "localhost" else serve.host, "port": serve.port}


def _reserved_prefix(moe: MoEDeployment) -> Finding | None:
    """Why a route prefix is another namespace's: below its name are the default prefixes of its deployments.

    Which namespaces there are, or will be, is not asked: whatever may be the name of one counts.
    """
    first, _, rest = moe.route_prefix.removeprefix("/").partition("/")
    if not rest or first == moe.metadata.namespace or not _NAMESPACE.fullmatch(first):
        return None
    return Finding(
        Reason.ROUTE_PREFIX_RESERVED,
        f"spec.serving.routePrefix is {moe.route_prefix}: what is below /{first} belongs to the namespace of that "
        f"name; use one of a single segment, such as /{moe.metadata.name}, or one below /{moe.metadata.namespace}",
    )


def _next_goal(world: World, change: ModelChange | None) -> Goal:
    """While a change of the model waits, its experts stay where they are: other wishes are for the new model."""
    if change:
        return Goal(unchanged(world, world.model), change.problem)
    return next_goal(world, world.facts) if world.facts else Goal(unchanged(world))


def _runs_another_model(world: World) -> bool:
    wanted = world.model.model_dump(mode="json")
    return any(model_args(config) != wanted for config in world.submitted.values())


def _is_on_its_way_out(world: World) -> bool:
    """Whether applications that this operator removed, and nobody wants back as they were, are still stopping."""
    return not world.submitted and bool(world.applications)


def _due_for_retry(world: World) -> frozenset[str]:
    """Applications that Serve has given up, as long as nothing is served by them."""
    if world.report is not None:
        candidates = world.shard_applications
    else:
        candidates = (*world.shard_applications, *([world.core] if world.core else []))
    return frozenset(a.name for a in candidates if world.failed_seconds.get(a.name, 0.0) >= RETRY_SECONDS)


def _core(world: World, keys: KeyHashes, target: DirectoryConfig) -> Config:
    moe = world.moe
    return render_core(
        CoreArgs(application=world.core_name, model=world.running_model),
        moe.route_prefix,
        ApiConfig(
            served_name=_served_name(world),
            max_context=moe.spec.serving.max_context,
            generation_defaults=moe.spec.serving.generation_defaults,
            allowed_origins=tuple(moe.spec.serving.allowed_origins),
            api_key_sha256=keys.api,
            internal_key_sha256=keys.internal,
        ),
        target,
        AttentionConfig(
            queue_requests=moe.spec.serving.queue.max_requests, queue_tokens=moe.spec.serving.queue.max_tokens
        ),
        api_scale=_scale(moe.spec.api),
        attention_scale=_scale(moe.spec.attention),
    )


def _scale(replicas: Api | Attention) -> ReplicaScale:
    return ReplicaScale(
        min_replicas=replicas.min_replicas,
        max_replicas=replicas.max_replicas,
        target_ongoing_requests=replicas.target_ongoing_requests,
    )


def _served_name(world: World) -> str:
    """The name of the model that runs: it must not answer to the name of the one that shall replace it."""
    if world.running_model == world.model:
        return world.moe.served_name
    return str(world.submitted_config(world.core_name, API).get("served_name") or world.moe.served_name)


def _shard(world: World, index: int, target: DirectoryConfig) -> Config:
    name = world.shard_name(index)
    args = ShardArgs(application=name, core=world.core_name, index=index, model=world.running_model)
    slots = target.slots_per_shard
    if not (world.settled and world.target.revision == target.revision):
        slots = max(slots, _slots_given(world, name))
    return render_shard(args, ShardConfig(slots_per_shard=slots, spare_slots=target.spare_slots))


def _slots_given(world: World, name: str) -> int:
    """What a shard has; until the directory has settled, fewer could drop copies that requests are still sent to."""
    given = world.submitted_config(name, EXPERTS).get("slots_per_shard")
    return given if isinstance(given, int) and given > 0 else 0
