"""Which expert is in which slot: the one representation that planner, operator and data plane share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_placement.checks import MOST_EXPERTS, ids, items, whole, wholes
from moe_placement.errors import InvalidPlacementError

EMPTY = -1
"""Marks a slot that holds no expert."""


@dataclass(frozen=True, eq=False)
class Placement:
    """A complete placement: every expert of every layer is in at least one slot.

    Attributes:
        slots: int32 ``[layers, total_slots]``, the expert in each slot, shard by shard; ``EMPTY`` where there is none.
        shard_slots: slots per layer of each shard; they sum to ``total_slots``. A shard that must end empty has 0.
        experts: experts per layer; ids are ``0 .. experts - 1``.
    """

    slots: NDArray[np.int32]
    shard_slots: tuple[int, ...]
    experts: int

    def __post_init__(self) -> None:
        experts = whole(InvalidPlacementError, "experts", self.experts, 1, MOST_EXPERTS)
        widths = wholes(InvalidPlacementError, "shard_slots", self.shard_slots)
        slots = ids(InvalidPlacementError, "slots", self.slots, "[layers, total_slots]", experts).astype(np.int32)
        slots.flags.writeable = False
        for name, value in (("experts", experts), ("shard_slots", widths), ("slots", slots)):
            object.__setattr__(self, name, value)
        self._check_complete()

    def _check_complete(self) -> None:
        if sum(self.shard_slots) != self.slots.shape[1]:
            raise InvalidPlacementError(
                f"shard_slots {self.shard_slots} sum to {sum(self.shard_slots)}, "
                f"but a layer has {self.slots.shape[1]} slots"
            )
        layer_of, expert_of, _ = self._pairs
        present = np.zeros((self.layers, self.experts), dtype=bool)
        present[layer_of, expert_of] = True
        missing = np.argwhere(~present)
        if len(missing):
            layer, expert = missing[0]
            raise InvalidPlacementError(
                f"layer {layer}: expert {expert} is in no slot ({len(missing)} such experts in all)"
            )

    @property
    def layers(self) -> int:
        return int(self.slots.shape[0])

    @property
    def shards(self) -> int:
        return len(self.shard_slots)

    @cached_property
    def shard_of_slot(self) -> NDArray[np.int32]:
        """int32 ``[total_slots]``: the shard each slot belongs to."""
        return np.repeat(np.arange(self.shards, dtype=np.int32), self.shard_slots)

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """bool ``[layers, experts, shards]``: whether a shard holds an expert. Of a large model this is large, and
        ``held_in`` or ``holders`` may do."""
        held = np.zeros((self.layers, self.experts, self.shards), dtype=bool)
        held[self._pairs] = True
        return held

    def held_in(self, layer: int) -> NDArray[np.bool_]:
        """bool ``[experts, shards]``: ``held`` of one layer."""
        held = np.zeros((self.experts, self.shards), dtype=bool)
        slot = np.flatnonzero(self.slots[layer] != EMPTY)
        held[self.slots[layer, slot], self.shard_of_slot[slot]] = True
        return held

    @property
    def holders(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Layer, expert and shard of each copy, in this order; an expert that a shard has in two slots is one copy."""
        layer, expert, shard = self._pairs
        copies = np.unique((layer * self.experts + expert) * self.shards + shard)
        pair, shard = np.divmod(copies, max(self.shards, 1))
        layer, expert = np.divmod(pair, self.experts)
        return layer, expert, shard

    @property
    def _pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Layer, expert and shard of each slot in use."""
        layer, slot = np.nonzero(self.slots != EMPTY)
        expert, shard = self.slots[layer, slot], self.shard_of_slot[slot]
        return layer, expert.astype(np.int64), shard.astype(np.int64)

    @property
    def copies(self) -> NDArray[np.int64]:
        """int64 ``[layers, experts]``: on how many distinct shards each expert is."""
        layer, expert, _ = self.holders
        counts = np.bincount(layer * self.experts + expert, minlength=self.layers * self.experts)
        return np.asarray(counts, dtype=np.int64).reshape(self.layers, self.experts)

    def holdings(self, shard: int) -> frozenset[tuple[int, int]]:
        """The (layer, expert) pairs that a shard holds.

        Raises:
            InvalidPlacementError: no such shard.
        """
        whole(InvalidPlacementError, "shard", shard, most=self.shards - 1)
        layer, expert, there = self._pairs
        return frozenset(zip(layer[there == shard].tolist(), expert[there == shard].tolist(), strict=True))

    @cached_property
    def digest(self) -> str:
        """sha256 over the content; equal placements have equal digests."""
        header = f"{self.experts}:{','.join(map(str, self.shard_slots))}:".encode()
        return hashlib.sha256(header + self.slots.astype("<i4").tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placement) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def to_strings(self) -> list[str]:
        """One string a layer: the expert in each slot, shard by shard, ``-`` where a slot is empty."""
        return [" ".join("-" if e == EMPTY else str(e) for e in row) for row in self.slots]

    @classmethod
    def from_strings(cls, layers: Iterable[str], shard_slots: Sequence[int], experts: int) -> Placement:
        """Inverse of ``to_strings``.

        Raises:
            InvalidPlacementError: an entry is neither a number nor ``-``, or the result is not a placement.
        """
        rows: list[list[int]] = []
        width = sum(wholes(InvalidPlacementError, "shard_slots", shard_slots))
        for number, text in enumerate(items(InvalidPlacementError, "layers", layers)):
            try:
                rows.append([EMPTY if word == "-" else int(word) for word in str(text).split()])
            except ValueError as error:
                raise InvalidPlacementError(f"layer {number}: {error}; write expert ids or '-'") from None
            if len(rows[-1]) != width:
                raise InvalidPlacementError(
                    f"layer {number} has {len(rows[-1])} entries, the shards have {width} slots"
                )
        return cls.of(np.asarray(rows).reshape(len(rows), width), shard_slots, experts)

    @classmethod
    def of(cls, slots: ArrayLike, shard_slots: Sequence[int], experts: int) -> Placement:
        """Build from anything array-like, ``[layers, total_slots]``.

        Raises:
            InvalidPlacementError: it is not a placement.
        """
        return cls(slots, shard_slots, experts)  # type: ignore[arg-type]  # made an array and a tuple there
