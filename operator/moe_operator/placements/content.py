"""The content of an ExpertPlacement and the brain's ``Placement``, one from the other. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import ValidationError

from moe_contract.sizes import MOST_SLOTS
from moe_operator.api import PlacementContent, PlacementReason
from moe_operator.placements.errors import InvalidContentError, NotExpressibleError
from moe_placement import InvalidPlacementError, Placement
from moe_placement.placement import EMPTY

_MAX_DIGITS = 5
_QUOTED = 16
"""Characters of an entry that a message quotes."""


def read_placement(content: PlacementContent) -> Placement:
    """The placement that a content describes; shards are ``0 .. content.shards - 1``, each with all its slots.

    Raises:
        InvalidContentError: it describes none; the message names layer, slot, value and cure.
    """
    slots = len(content.layers) * content.shards * content.slots_per_shard
    if slots > MOST_SLOTS:
        raise InvalidContentError(
            PlacementReason.OTHER_SHAPE,
            f"spec.content: {len(content.layers)} layers x {content.shards} shards x {content.slots_per_shard} "
            f"slotsPerShard are {slots} slots; this release places at most {MOST_SLOTS}: use fewer",
        )
    layers = [_slots(content, layer, text) for layer, text in enumerate(content.layers)]
    try:
        return Placement.of(layers, (content.slots_per_shard,) * content.shards, content.experts)
    except InvalidPlacementError as error:  # all else was looked at already
        raise InvalidContentError(
            PlacementReason.EXPERT_MISSING,
            f"spec.content.layers: {error}; write it into a slot of a shard, or nobody could compute it",
        ) from error


def content_of(placement: Placement, revision: int, base_revision: int, digest: str) -> PlacementContent:
    """The content that describes a placement, in which the last shards may have no slots: they are left out.

    Raises:
        NotExpressibleError: shards of different widths, or more than an object can hold.
    """
    widths = placement.shard_slots
    shards = max((index + 1 for index, width in enumerate(widths) if width), default=0)
    if len(set(widths[:shards])) != 1:
        raise NotExpressibleError(f"revision {revision}: shards of {widths[:8]} slots are not all of one width")
    try:
        return PlacementContent(
            revision=revision,
            base_revision=base_revision,
            model_digest=digest,
            experts=placement.experts,
            shards=shards,
            slots_per_shard=widths[0],
            layers=tuple(placement.to_strings()),
        )
    except ValidationError as error:
        fields = ", ".join(str(fault["loc"][0]) for fault in error.errors())
        raise NotExpressibleError(f"revision {revision} is more than an ExpertPlacement holds: {fields}") from error


def describes(content: PlacementContent, placement: Placement) -> bool:
    """Whether ``content`` says what ``placement`` is, but for shards without slots at the end of that."""
    try:
        said = read_placement(content)
    except InvalidContentError:
        return False
    same_shards = only_empty_ones_leave(placement, said.shard_slots)
    return same_shards and said.experts == placement.experts and np.array_equal(said.slots, placement.slots)


def only_empty_ones_leave(placement: Placement, shape: Sequence[int]) -> bool:
    """Whether ``shape``, slots of each shard, is that of a placement but for shards without slots at its end."""
    kept = len(shape)
    return placement.shard_slots[:kept] == tuple(shape) and not any(placement.shard_slots[kept:])


def moves_between(before: Placement | None, after: Placement) -> int:
    """Copies that shards must load to come from ``before`` (of the same model; None: nothing) to ``after``."""
    if before is None:
        return len(after.holders[0])
    shards = max(before.shards, after.shards)
    return len(np.setdiff1d(_numbered(after, shards), _numbered(before, shards), assume_unique=True))


def _numbered(placement: Placement, shards: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A number for each copy, the same for the same (layer, expert, shard) in every placement."""
    layer, expert, shard = placement.holders
    return (layer * placement.experts + expert) * shards + shard


def _slots(content: PlacementContent, layer: int, text: str) -> list[int]:
    words, width = text.split(" "), content.shards * content.slots_per_shard
    if len(words) != width:
        raise InvalidContentError(
            PlacementReason.INVALID_ENTRY,
            f"spec.content.layers[{layer}] has {len(words)} entries; {content.shards} shards of "
            f"{content.slots_per_shard} slots need {width}, separated by one space each: write - for an empty slot",
        )
    return [_entry(content, layer, slot, word) for slot, word in enumerate(words)]


def _entry(content: PlacementContent, layer: int, slot: int, word: str) -> int:
    if word == "-":
        return EMPTY
    if word.isascii() and word.isdecimal() and len(word) <= _MAX_DIGITS and int(word) < content.experts:
        return int(word)
    shard, within = divmod(slot, content.slots_per_shard)
    raise InvalidContentError(
        PlacementReason.INVALID_ENTRY,
        f"spec.content.layers[{layer}], slot {slot} (slot {within} of shard {shard}) is {word[:_QUOTED]!a}, which is "
        f"no expert: write 0 to {content.experts - 1}, or - for an empty slot",
    )
