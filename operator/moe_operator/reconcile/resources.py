"""What the processes of a deployment ask of their nodes: whether anybody has it, and when those that run start anew
with what is asked for now. Pure.

Another resource is another process. A shard that answers starts anew only while all others hold their experts, so that
with two copies of each nobody waits; one that does not answer yet has nothing to lose. And none does for what no node
has: what runs goes on.

With KubeRay the pods of a Ray cluster offer what is asked for and nothing else, so all ask for the same: a new cluster
is what brings a change, and until there may be one all go on as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_contract.applications import ATTENTION, EXPERTS
from moe_contract.resources import Resources
from moe_operator.api import Reason
from moe_operator.api.kube_ray import UpgradeStrategy
from moe_operator.api.resources import asked
from moe_operator.finding import Finding
from moe_operator.reconcile.placing import wanted_shards
from moe_operator.reconcile.world import World
from moe_operator.runtimes.port import ApplicationPhase, Node
from moe_operator.text import on_one_line, some

_SHOWN = 8
"""Kinds of accelerators that a message names."""


@dataclass(frozen=True, slots=True)
class _Role:
    """Attributes:
    field: of the spec; processes: how many there are at least; noun: of one of them.
    """

    field: str
    asked: Resources
    processes: int
    noun: str

    @property
    def gpus(self) -> float:
        return self.processes * self.asked.gpus


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """As ``rendering.Desired`` has them: by deployment, and of shards that go on with others for now."""

    by_deployment: Mapping[str, Mapping[str, Any]]
    kept: Mapping[int, Mapping[str, Any]]


def actor_options(world: World, shards: Collection[int]) -> ActorOptions:
    """What the processes of attention and of these shards shall ask for."""
    experts, attention = _roles(world)
    options = {EXPERTS: experts.asked.actor_options, ATTENTION: attention.asked.actor_options}
    if world.moe.spec.runtime.kube_ray is not None:
        return ActorOptions(_offered_by_pods(world, options), {})
    running = world.told(world.core_name)
    if running.model and world.core and _nobody_has(world, [attention]):
        options[ATTENTION] = dict(running.actor_options)
    kept = _kept(world, sorted(shards), experts)
    return ActorOptions(options, {index: world.told(world.shard_name(index)).actor_options for index in kept})


def _offered_by_pods(world: World, wanted: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """What the pods of the Ray cluster offer that is told what is rendered now."""
    told = world.runtime.told
    is_kept = world.moe.kube_ray.upgrade.strategy is UpgradeStrategy.NONE and not world.runtime.nothing_is_left
    if not is_kept or world.core_name not in told:
        return wanted
    of_shards = (dict(each.actor_options) for name, each in told.items() if name != world.core_name)
    return {EXPERTS: next(of_shards, wanted[EXPERTS]), ATTENTION: dict(told[world.core_name].actor_options)}


def missing(world: World) -> Finding | None:
    """What of it nobody has, where it is known what the nodes have."""
    said = _nobody_has(world, _roles(world))
    return Finding(Reason.INSUFFICIENT_RESOURCES, f"{said}; what runs goes on as it is") if said else None


def _roles(world: World) -> tuple[_Role, _Role]:
    experts, attention = world.moe.spec.experts, world.moe.spec.attention
    return (
        _Role("spec.experts.resources", asked(experts.resources), wanted_shards(world), "shards"),
        _Role("spec.attention.resources", asked(attention.resources), attention.min_replicas, "attention replicas"),
    )


def _kept(world: World, shards: Sequence[int], role: _Role) -> list[int]:
    """Of these shards, those that run with other options than are wanted, and go on so for now."""
    told, wanted, holding = world.runtime.told, role.asked.actor_options, _holding(world)
    others = [i for i in shards if (name := world.shard_name(i)) in told and told[name].actor_options != wanted]
    answering = [i for i in others if i in holding]
    if not answering or _nobody_has(world, [role]):
        return answering
    return answering[1:] if len(others) == len(answering) and _all_hold_theirs(world) else answering


def _holding(world: World) -> frozenset[int]:
    """Shards whose experts are missed when they go."""
    shards = world.report.shards if world.report else ()
    return frozenset(shard.index for shard in shards if shard.phase == "Ready" and shard.held)


def _all_hold_theirs(world: World) -> bool:
    """Whether nothing is on its way, as the runtime says too: it knows first of a process that is to end."""
    phases = (application.phase for application in world.shard_applications)
    return world.settled and all(phase is ApplicationPhase.RUNNING for phase in phases)


def _nobody_has(world: World, roles: Sequence[_Role]) -> str | None:
    nodes = world.runtime.nodes
    if not nodes:
        return None
    said = (_no_node(role, nodes) or _too_many(role, nodes) for role in roles if role.asked)
    return next((each for each in said if each), None) or _too_many_together(roles, nodes)


def _no_node(role: _Role, nodes: Sequence[Node]) -> str | None:
    """That no node has what one process asks for; of several things the first that nobody has by itself."""
    wants = role.asked
    if any(_fits(wants, node) for node in nodes):
        return None
    if not any(_fits(Resources(gpus=wants.gpus), node) for node in nodes):
        most = max(node.gpus for node in nodes)
        found = f"the most that one has is {most:g}" if most else "none has any"
        return f"{role.field}.gpus is {wants.gpus:g}, and no node of the Ray cluster has so many GPUs: {found}"
    if not any(_fits(Resources(accelerator=wants.accelerator), node) for node in nodes):
        kinds = sorted({on_one_line(kind) for node in nodes for kind in node.accelerators})
        there = f"there are {some(kinds, _SHOWN)}" if kinds else "none is of a kind that Ray knows"
        return f"{role.field}.accelerator is {wants.accelerator}, and no node of the Ray cluster has it: {there}"
    for key, value in wants.label_selector.items():
        if not any(_fits(Resources(label_selector={key: value}), node) for node in nodes):
            return f"{role.field}.labelSelector has {key}: {value}, and no node of the Ray cluster has such a label"
    return f"{role.field}: each node of the Ray cluster has some of what is asked for, and none has all of it"


def _too_many(role: _Role, nodes: Sequence[Node]) -> str | None:
    """That there is room for fewer processes than there are of one role alone."""
    if not role.asked.gpus:
        return None
    each = int(1.0 / role.asked.gpus + 1e-9)
    room = sum(int(node.gpus) * each for node in nodes if _fits(role.asked, node))
    if role.processes <= room:
        return None
    return (
        f"{role.field}.gpus is {role.asked.gpus:g}: of {role.processes} {role.noun} the nodes of the Ray cluster have "
        f"GPUs for {room}"
    )


def _too_many_together(roles: Sequence[_Role], nodes: Sequence[Node]) -> str | None:
    total, there = sum(role.gpus for role in roles), sum(node.gpus for node in nodes)
    if total <= there + 1e-6:
        return None
    asks = [f"{role.processes} {role.noun} x {role.asked.gpus:g}" for role in roles if role.gpus]
    fields = " and ".join(f"{role.field}.gpus" for role in roles if role.gpus)
    return f"{fields}: {' and '.join(asks)} are {total:g} GPUs, and the nodes of the Ray cluster have {there:g}"


def _fits(wants: Resources, node: Node) -> bool:
    return (
        wants.gpus <= node.gpus
        and (wants.accelerator is None or wants.accelerator in node.accelerators)
        and all(_selects(value, node.labels.get(key)) for key, value in wants.label_selector.items())
    )


def _selects(selector: str, label: str | None) -> bool:
    """Whether a selector in Ray's syntax takes a label; ``None`` is one that is not there."""
    wanted = selector.removeprefix("!")
    values = [wanted]
    if wanted.startswith("in("):
        values = [each.strip() for each in wanted.removeprefix("in(").removesuffix(")").split(",")]
    return (label in values) != selector.startswith("!")
