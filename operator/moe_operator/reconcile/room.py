"""How many slots the memory of shards has room for, and whether that is enough. Pure.

What a slot takes is foretold from the checkpoint's shapes and the dtype served (``moe_contract.memory``). What a shard
has is known once one has started: of a GPU the part that ``spec.experts.resources.gpus`` asks for; of a machine an
equal part for each shard there. Of GPUs that nobody asked for it is not known how many share them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from moe_contract.applications import DirectoryConfig
from moe_contract.memory import shard_bytes, slots_within, usable_bytes
from moe_contract.model import ModelFacts
from moe_contract.sizes import MOST_SLOTS
from moe_operator.api import Reason
from moe_operator.api.resources import asked
from moe_operator.finding import Finding
from moe_operator.reconcile.world import World

SPARE = DirectoryConfig().spare_slots
_SCALE_UP = 4
"""So many times as many shards can be placed before there are too many slots, where nobody asked for a number of
slots."""
_CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for experts, of the shard that has least.

    Attributes:
        usable: bytes of its device that its experts may take.
        slots: how many per layer fit into that.
        is_own: whether it is memory of a GPU, of which the shard has a part to itself.
        words: of what the memory is a part.
    """

    usable: int
    slots: int
    is_own: bool
    words: str


def room_of(world: World, facts: ModelFacts) -> Room | None:
    """The room of the shard that has least; None where it is not known."""
    shards = [shard for shard in world.report.shards if shard.memory] if world.report else []
    part, neighbours = asked(world.moe.spec.experts.resources).part_of_a_gpu, Counter(shard.node for shard in shards)
    if part and world.moe.spec.runtime.kube_ray is not None:
        part = 1.0  # Kubernetes gives no part of a GPU, and a pod is for one shard
    found = []
    for shard in shards:
        is_own, sharing = shard.device != _CPU, neighbours[shard.node]
        if is_own and not part:
            continue
        usable = usable_bytes(shard.memory, part if is_own else 1.0 / sharing, is_gpu=is_own)
        of_gpu = f"{part:g} of a GPU of {_size(shard.memory)}"
        words = of_gpu if is_own else f"a machine of {_size(shard.memory)} with {sharing} of the shards on it"
        found.append(Room(usable, slots_within(facts, usable, SPARE), is_own, words))
    return min(found, key=lambda room: room.usable, default=None)


def awaits_memory(world: World) -> bool:
    """Whether the first placement depends on the memory of GPUs, and no shard has told of its own yet."""
    if not asked(world.moe.spec.experts.resources).gpus or world.target.revision:
        return False
    return world.report is not None and all(shard.phase == "Starting" for shard in world.report.shards)


def slots_to_fill(room: Room, facts: ModelFacts, shards: int, needed: int) -> int:
    """Slots per layer for each of ``shards`` shards whose copies need ``needed``: all that their memory holds, since
    further copies are worth something, but not more than have an effect, or than leave room to scale up."""
    most = MOST_SLOTS // (_SCALE_UP * facts.layers * max(1, shards))
    return max(1, min(room.slots, facts.experts, max(needed, most)))


def insufficient(world: World, facts: ModelFacts, slots: int, shards: int) -> Finding | None:
    """Why ``shards`` shards of ``slots`` slots per layer do not fit into their memory, if so."""
    room, experts = room_of(world, facts), world.moe.spec.experts
    if room is None:
        return None
    needed = facts.experts * experts.copies.min
    filled = slots if room.is_own else min(slots, -(-needed // max(1, shards)))
    takes = shard_bytes(facts, filled, SPARE)
    if takes > room.usable:
        given = experts.slots_per_shard is not None
        field = f"spec.experts.slotsPerShard is {experts.slots_per_shard}" if given else "spec.experts"
        return Finding(
            Reason.INSUFFICIENT_MEMORY,
            f"{field}: {facts.layers} MoE layers x {filled} slots x {_size(facts.bytes_per_expert)} take "
            f"{_size(takes)} of a shard, which has {_size(room.usable)} for them ({room.words}): "
            f"{_cure(room, facts, needed)}",
        )
    at_creation = world.target.revision == 0 and world.moe.status.slots_per_shard is None
    asked_for = max(experts.shards, experts.copies.min)
    if at_creation and room.is_own and experts.slots_per_shard is None and asked_for * slots < needed:
        return Finding(
            Reason.INSUFFICIENT_MEMORY,
            f"spec.experts.shards is {experts.shards}: {facts.experts} experts x {experts.copies.min} (copies.min) "
            f"need {needed} slots of {_size(facts.bytes_per_expert)} in each of {facts.layers} MoE layers, and a shard "
            f"has {_size(room.usable)} for them ({room.words}): {_cure(room, facts, needed)}",
        )
    return None


def _cure(room: Room, facts: ModelFacts, needed: int) -> str:
    """What would fit, in words."""
    shards = -(-needed // room.slots) if room.slots else facts.experts + 1
    if shards > facts.experts:
        return "no number of shards of this size holds the model: give each more memory"
    return f"{room.slots} slots per layer fit, so use at least {shards} shards"


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
