"""The next placement to ask of the directory. Pure.

Scaling is make-before-break in two steps: a placement over all shards, old and new, in which those that leave have no
slots; then, once these hold nothing and the directory has settled, the same placement without them. A shard that is
drained keeps its slots, and nothing is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moe_contract.applications import DirectoryConfig, ModelArgs, ShardRef
from moe_contract.model import ModelFacts
from moe_contract.sizes import MOST_SHARDS, MOST_SLOTS
from moe_operator.api import MoEDeployment, PlacementConditionType, PlacementReason, Reason
from moe_operator.api.placement import Origin
from moe_operator.finding import Finding
from moe_operator.placements.choice import Choice, Standing, choose
from moe_operator.placements.content import only_empty_ones_leave
from moe_operator.placements.trial import Terms
from moe_operator.placements.validity import Ground
from moe_operator.reconcile.draining import Drain, Needs, drain, fewest_beside
from moe_operator.reconcile.room import awaits_memory, insufficient, room_of, slots_to_fill
from moe_operator.reconcile.world import World
from moe_placement import InfeasiblePlacementError, Placement, balanced_placement
from moe_placement.encoding import encode_placement
from moe_placement.placement import EMPTY
from moe_placement.quotas import could_be_apart

MAX_TOLD_REVISION = 2**31
"""Higher ones in a status are not believed: anybody may have written it, and no deployment has so many placements."""
NODES_SECONDS = 10.0
"""How long the first placement waits, once one shard has answered, until others tell on which nodes they are. Shards
start together; one that starts later is taken to have a node of its own."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Where the directory shall go.

    Attributes:
        config: its ``user_config``; on a problem, the one that it has.
        problem: why what the spec asks for is impossible with this model.
        choice: what was chosen among the ExpertPlacements.
    """

    config: DirectoryConfig
    problem: Finding | None = None
    choice: Choice = field(default_factory=Choice)


def next_goal(world: World, facts: ModelFacts) -> Goal:
    """The placement wanted now: that of an ExpertPlacement that was chosen, else one computed.

    The revision of a computed one goes up exactly when the placement differs from the one wanted before, or that one's
    revision is of an ExpertPlacement that says something else.
    """
    spec = world.moe.spec.experts
    slots = slots_per_shard(world, facts)
    problem = impossible(world.moe, facts, slots) or lacks_memory(world, facts, slots)
    if problem:
        return Goal(unchanged(world), problem, unjudged(world))
    choice = _choice(world, ground_of(world, facts))
    current = _of_model(world.target_placement, facts)
    shape = _shape(world, current, slots)
    config = DirectoryConfig(
        term=world.term,
        shards=tuple(ShardRef(index=i, application=world.shard_name(i)) for i in range(len(shape))),
        slots_per_shard=slots,
        min_copies=spec.copies.min,
    )
    if awaits_memory(world):
        return Goal(config.model_copy(update={"slots_per_shard": 0}), choice=choice)
    if choice.next is None and _waits_for_nodes(world, len(shape)):
        return Goal(config, choice=choice)
    try:
        revision, placement = _wanted(world, facts, current, shape, choice)
    except InfeasiblePlacementError as error:
        return Goal(unchanged(world), _infeasible(error), choice)
    told = {"revision": revision, "placement": encode_placement(placement)}
    if world.contract:  # a data plane of the first release compares layers and experts alone
        told["model_digest"] = facts.digest
    return Goal(config.model_copy(update=told), choice=choice)


def unjudged(world: World) -> Choice:
    """The choice among the ExpertPlacements where there is nothing to judge them by: what runs goes on."""
    return _choice(world, None)


def _choice(world: World, ground: Ground | None) -> Choice:
    return choose(world.book, world.target.revision, world.target_placement, ground, Terms.of(world.moe))


def unreported(world: World) -> Choice:
    """The choice where only a report is missing: what runs goes on, and what was judged before stays as it was told."""
    choice = unjudged(world)
    told = {each.revision for each in world.book.ahead if each.status.condition(PlacementConditionType.VALID)}
    judgements = {
        revision: each
        for revision, each in choice.judgements.items()
        if each.reason is not PlacementReason.NOT_JUDGED or revision not in told
    }
    return replace(choice, judgements=judgements)


def ground_of(world: World, facts: ModelFacts) -> Ground:
    """By what ExpertPlacements are judged."""
    slots = slots_per_shard(world, facts)
    return Ground(
        digest=facts.digest,
        layers=facts.layers,
        experts=facts.experts,
        shards=wanted_shards(world),
        slots_per_shard=slots,
        min_copies=world.moe.spec.experts.copies.min,
        revision=world.target.revision,
        drained=drain_of(world, facts).empty,
    )


def _wanted(
    world: World, facts: ModelFacts, current: Placement | None, shape: Sequence[int], choice: Choice
) -> tuple[int, Placement]:
    """The revision and the placement wanted. None is begun while the directory, which was told of a later one, would
    refuse it."""
    if choice.next and not _is_behind(world):
        return choice.next.revision, _widened(choice.next.placement, shape)
    if choice.back and choice.back.placement and not _is_behind(world):
        return next_revision(world), _widened(choice.back.placement, shape)
    placement = _placement(world, facts, current, shape)
    is_new = placement != current or _is_behind(world) or choice.standing is Standing.CONTRADICTED
    return next_revision(world) if is_new else world.target.revision, placement


def _widened(chosen: Placement, shape: Sequence[int]) -> Placement:
    """The placement with the shards that cannot be removed yet, which have no slots in it."""
    return Placement(chosen.slots, tuple(shape), chosen.experts)


def unchanged(world: World, candidate: ModelArgs | None = None) -> DirectoryConfig:
    """What the directory was told last, now told by this leader, under a revision that it does not refuse.
    ``candidate``: a model that it shall look at."""
    revision = next_revision(world) if _is_behind(world) else world.target.revision
    looks = {"candidate": candidate, "caches_go": candidate is not None and world.runtime.caches_go}
    return world.target.model_copy(update={"term": world.term, "revision": revision, **looks})


def slots_per_shard(world: World, facts: ModelFacts) -> int:
    """Slots of a shard per layer: what the spec says, else what they were, else what its part of a GPU holds, else what
    the copies need.

    They are kept while the model stays: how much memory a shard may take must not follow from how many there are.
    Serve knows them for as long as it runs something. The status is asked only when Ray has lost them: whoever may
    write there could set ``spec.experts.slotsPerShard`` as well, and it is bounded by what has an effect.
    """
    spec, status = world.moe.spec.experts, world.moe.status
    if spec.slots_per_shard is not None:
        return spec.slots_per_shard
    if _of_model(world.target_placement, facts) and world.target.slots_per_shard:
        return world.target.slots_per_shard
    told = status.slots_per_shard or 0
    if told > 0 and status.model and status.model.digest == facts.digest:
        return min(told, facts.experts)
    shards = max(spec.shards, spec.copies.min)
    needed, room = -(-facts.experts * spec.copies.min // shards), room_of(world, facts)
    return slots_to_fill(room, facts, shards, needed) if room and room.is_own else needed


def wanted_shards(world: World) -> int:
    """How many shards shall run: as many as are asked for or, once the model is known, as its copies need at least; and
    further ones that are there, while shards that are drained would be missed."""
    facts = world.facts
    if facts is None:
        return world.moe.spec.experts.shards
    slots, current = slots_per_shard(world, facts), _of_model(world.target_placement, facts)
    fewest = _shards_to_run(world.moe, facts, slots)
    there = current.shards if current and fewest else 0
    return fewest_beside(world.moe, fewest, there, Needs.of(world.moe, facts, slots))


def drain_of(world: World, facts: ModelFacts) -> Drain:
    """What is drained of the shards that shall run."""
    needs = Needs.of(world.moe, facts, slots_per_shard(world, facts))
    # What is made elsewhere must not wait for a shard that was lost meanwhile, as with an evicted pod; and what is
    # being emptied is not filled again for one whose node goes away later.
    lost = {shard.index for shard in world.report.shards if shard.phase == "Lost"} if world.report else set()
    current = _of_model(world.target_placement, facts) if world.moved_shards else None
    filled = set(current.holders[2].tolist()) if current else set()
    moved = sorted(world.moved_shards, key=lambda index: (index not in lost, index in filled, index))
    return drain(world.moe, moved, wanted_shards(world), needs)


def _waits_for_nodes(world: World, shards: int) -> bool:
    """Whether the first placement depends on nodes that are about to be told."""
    if world.target.revision or world.moe.spec.experts.copies.min == 1 or world.report is None or _is_behind(world):
        return False
    started = [shard.phase != "Starting" for shard in world.report.shards]
    return (len(started) < shards or not all(started)) and world.shards_missing_seconds < NODES_SECONDS


def _shards_to_run(moe: MoEDeployment, facts: ModelFacts, slots: int) -> int:
    """As many shards as are asked for, or as the copies need, which live on distinct ones: an autoscaler that wakes
    goes from 0 to 1 first, and must not be refused for that."""
    spec = moe.spec.experts
    if spec.shards == 0:
        return 0
    return max(spec.shards, Needs.of(moe, facts, slots).shards)


def impossible(moe: MoEDeployment, facts: ModelFacts, slots: int) -> Finding | None:
    """Why shards of ``slots`` slots cannot serve a model as the spec asks for, if so."""
    spec = moe.spec.experts
    if spec.shards > facts.experts:
        return Finding(
            Reason.TOO_MANY_SHARDS,
            f"spec.experts.shards is {spec.shards}, but the model has {facts.experts} experts per MoE layer: "
            f"use at most {facts.experts} shards",
        )
    if _shards_to_run(moe, facts, slots) > facts.experts:
        more_slots = spec.copies.min <= facts.experts
        cure = (
            f"set slotsPerShard to at least {spec.copies.min}, or use fewer copies"
            if more_slots
            else "use fewer copies"
        )
        return Finding(
            Reason.INSUFFICIENT_SLOTS,
            f"spec.experts: {facts.experts} experts in {spec.copies.min} copies do not fit on shards of {slots} slots "
            f"per layer, of which there can be {facts.experts}, as many as experts: {cure}",
        )
    return _too_large(facts, _shards_to_run(moe, facts, slots), slots, spec.copies.min)


def lacks_memory(world: World, facts: ModelFacts, slots: int) -> Finding | None:
    """Why the memory of shards cannot hold so many slots, or the model, if so."""
    return insufficient(world, facts, slots, _shards_to_run(world.moe, facts, slots))


def _too_large(facts: ModelFacts, shards: int, slots: int, copies: int) -> Finding | None:
    """Why there are more slots than can be placed, if so."""
    if shards <= MOST_SHARDS and facts.layers * shards * slots <= MOST_SLOTS:
        return None
    one_copy = facts.layers * facts.experts
    if one_copy * copies <= MOST_SLOTS:
        cure = "use fewer shards, or fewer slotsPerShard"
    else:
        cure = "use fewer copies" if one_copy <= MOST_SLOTS else "use a smaller model"
    return Finding(
        Reason.PLACEMENT_TOO_LARGE,
        f"spec.experts: {facts.layers} MoE layers x {shards} shards x {slots} slots are "
        f"{facts.layers * shards * slots} slots (the model has {facts.experts} experts per layer); this release places "
        f"at most {MOST_SLOTS} on at most {MOST_SHARDS} shards: {cure}",
    )


def _infeasible(error: InfeasiblePlacementError) -> Finding:
    return Finding(Reason.INSUFFICIENT_SLOTS, f"spec.experts: {error}")


def _shape(world: World, current: Placement | None, slots: int) -> tuple[int, ...]:
    """Slots of each shard: first the shards wanted, then, without slots, those that cannot be removed yet."""
    wanted = wanted_shards(world)
    staying = [i for i in range(wanted, world.shards_there(current)) if not _drained(world, current, i)]
    return (slots,) * wanted + (0,) * (max(staying, default=wanted - 1) + 1 - wanted)


def _drained(world: World, current: Placement | None, index: int) -> bool:
    """Whether a shard that leaves may be removed: the directory has settled, and says that it holds nothing, or knows
    none of its number."""
    if current is None or current.shard_slots[index] or not world.settled or world.report is None:
        return False
    return all(shard.held == 0 for shard in world.report.shards if shard.index == index)


def _placement(world: World, facts: ModelFacts, current: Placement | None, shape: Sequence[int]) -> Placement:
    copies, emptied = world.moe.spec.experts.copies.min, drain_of(world, facts).empty
    usable = tuple(0 if index in emptied else width for index, width in enumerate(shape))
    nodes = world.nodes(len(shape))
    if current and current.copies.min() >= copies and _stays(world, current, usable, nodes):
        if current.shard_slots == tuple(shape):
            return current
        if only_empty_ones_leave(current, shape):
            return Placement(current.slots, tuple(shape), current.experts)
    actual = _of_model(world.actual_placement, facts)
    # From the placement in force: the next one shall differ from it as little as it can.
    base = actual or current
    return _with_slots(balanced_placement(facts.layers, facts.experts, usable, copies, base, nodes), shape)


def _stays(world: World, current: Placement, usable: Sequence[int], nodes: Sequence[str]) -> bool:
    """Whether the placement may stay: no shard holds experts that shall hold none. One that the operator made must also
    use every shard that may hold some, and have copies on distinct nodes where there are enough."""
    holding = np.bincount(current.holders[2], minlength=len(usable)) > 0
    if any(held and width == 0 for held, width in zip(holding[: len(usable)], usable, strict=True)):
        return False
    if world.book.author(world.target.revision) is not Origin.OPERATOR:
        return True  # also where nobody tells: an object that is gone is made anew before anything is moved
    idle = any(width and not held for held, width in zip(holding[: current.shards], usable, strict=False))
    fits = current.shards <= len(usable)
    together = fits and "" not in nodes and could_be_apart(current, world.moe.spec.experts.copies.min, usable, nodes)
    return not idle and not together


def _with_slots(placement: Placement, shape: Sequence[int]) -> Placement:
    """The placement with the slots of shards that were left out of it, and nothing in these."""
    if placement.shard_slots == tuple(shape):
        return placement
    slots = np.full((placement.layers, sum(shape)), EMPTY, dtype=np.int32)
    usable = np.repeat(np.asarray(placement.shard_slots) > 0, shape)
    slots[:, usable] = placement.slots
    return Placement(slots, tuple(shape), placement.experts)


def _of_model(placement: Placement | None, facts: ModelFacts) -> Placement | None:
    """The placement, if it has as many layers and experts as the model."""
    fits = placement and (placement.layers, placement.experts) == (facts.layers, facts.experts)
    return placement if fits else None


def _is_behind(world: World) -> bool:
    """Whether the directory was told of a later revision, by somebody else: it would refuse to go back."""
    return world.report is not None and world.report.revision > world.target.revision


def next_revision(world: World) -> int:
    """A revision higher than any known, which no ExpertPlacement has. Known are those of the directory and of Serve,
    what was in force, and what the operator proposed last, which an earlier revision would not replace; where Ray has
    lost both memories, also the status."""
    known = max(world.target.revision, world.report.revision if world.report else 0)
    told = world.moe.status.placement
    if known == 0 and told and 0 <= told.revision < MAX_TOLD_REVISION:
        known = told.revision
    known = max(known, *(each.revision for each in (*world.book.in_force, *world.book.proposed)), 0)
    return world.book.first_free(known)
