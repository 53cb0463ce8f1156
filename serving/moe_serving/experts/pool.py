"""The experts that a shard holds: a bounded number of slots, each filled out of sight and then published whole.

::

    reserve ──► fill ──► publish ──► free
       └── left without publish: the slot is vacant again

Filled by the loader, read by the server's thread, freed by the directory's orders; any thread may call anything. Who
reads pins what he reads: a slot that is freed meanwhile is found by nobody from then on, and becomes vacant, and may be
filled anew, only when the last pin is gone. Slots come in blocks, so a pool grows and shrinks without moving an expert;
the lowest numbers are filled first, so that blocks run empty, and those go.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from moe_serving.checkpoint.reader import ExpertForm, ExpertWeights, digest_of
from moe_serving.experts.description import ExpertKey
from moe_serving.experts.errors import DamagedExpertError, PoolFullError
from moe_serving.experts.slab import Block, slots_per_block

UNPIN_SECONDS = 5.0
"""How long a reservation waits for a slot that is freed and still being read: many times what a request takes."""
NOBODY = (-1, -1)
"""Key of a vacant slot."""


class Slot:
    """Room for one expert.

    Attributes:
        number: of the slot in its pool; no other ever has it.
        block: whose memory it is a part of.
        weights: views of that.
        key: of the expert in it, or about to be.
        digest: of what it holds, once that is published.
        pins: of those who read it now.
    """

    __slots__ = ("_place", "block", "digest", "key", "number", "pins", "weights")

    def __init__(self, number: int, block: Block, place: int) -> None:
        self.number = number
        self.block = block
        self.weights: ExpertWeights = block.weights(place)
        self.key: ExpertKey = NOBODY
        self.digest = b""
        self.pins = 0
        self._place = place

    def __lt__(self, other: Slot) -> bool:
        return self.number < other.number

    def give_back(self) -> None:
        """Its content is wanted no more."""
        self.block.give_back(self._place)


class ExpertPool:
    """Weights by (layer, expert).

    Args:
        layers, experts: of the model.
        form: of all experts.
        device: that holds them.
    """

    def __init__(self, layers: int, experts: int, form: ExpertForm, device: torch.device) -> None:
        self.form = form
        self.capacity = 0
        """Experts that may be held, over all layers: slots per layer times layers, and the spare buffers. What is held
        beyond a bound that was lowered stays until it is freed."""
        self._device = device
        self._published: dict[ExpertKey, Slot] = {}
        self._reserved: set[ExpertKey] = set()
        self._held = np.zeros((layers, experts), dtype=bool)
        self._numbers = itertools.count()
        self._slots = 0
        """Of all blocks."""
        self._vacant: list[Slot] = []
        """A heap."""
        self._lock = threading.Lock()
        self._vacated = threading.Condition(self._lock)

    def reserve(self, layer: int, expert: int) -> Reservation:
        """A slot to be filled with an expert that is neither held nor being filled.

        Raises:
            PoolFullError: ``capacity`` experts are held or being filled already.
        """
        key = (layer, expert)
        with self._lock:
            if key in self._published or key in self._reserved:
                raise ValueError(f"expert {expert} of layer {layer} is held already, or being filled")
            if len(self._published) + len(self._reserved) >= self.capacity:
                raise PoolFullError(f"no room for another expert: {self.capacity} experts are held")
            self._reserved.add(key)
            try:
                slot = self._take_vacant()
            except BaseException:
                self._reserved.remove(key)
                raise
            slot.key = key
        return Reservation(self, slot)

    def free(self, layer: int, expert: int) -> None:
        """Whoever looks from now on does not find it; an expert that is not held is none."""
        with self._lock:
            slot = self._published.pop((layer, expert), None)
            self._held[layer, expert] = False
            if slot is None or slot.pins:
                return
        self._vacate(slot)

    def withdraw(self, slot: Slot) -> bool:
        """Free a slot that the caller has pinned; False where another one has its expert by now, or none."""
        with self._lock:
            if self._published.get(slot.key) is not slot:
                return False
            del self._published[slot.key]
            self._held[slot.key] = False
            return True

    def __contains__(self, key: ExpertKey) -> bool:
        return key in self._published

    def __len__(self) -> int:
        return len(self._published)

    def held(self) -> NDArray[np.bool_]:
        """bool ``[layers, experts]``, a copy."""
        with self._lock:
            return self._held.copy()

    def pinned(self, layer: int, experts: Iterable[int]) -> Pins:
        """For ``with``: those of ``experts`` that are held, by number, as they are until it ends, whatever is freed."""
        return Pins(self, [(layer, expert) for expert in set(experts)])

    def pin(self, keys: Sequence[ExpertKey]) -> dict[int, Slot]:
        """Called by its pins."""
        found = {}
        with self._lock:
            for key in keys:
                if (slot := self._published.get(key)) is not None:
                    slot.pins += 1
                    found[key[1]] = slot
        return found

    def unpin(self, slots: Iterable[Slot]) -> None:
        """Called by its pins."""
        freed = []
        with self._lock:
            for slot in slots:
                slot.pins -= 1
                if not slot.pins and self._published.get(slot.key) is not slot:
                    freed.append(slot)
        for slot in freed:
            self._vacate(slot)

    def publish(self, slot: Slot) -> None:
        """Called by its reservation."""
        with self._lock:
            self._reserved.remove(slot.key)
            self._published[slot.key] = slot
            self._held[slot.key] = True

    def abandon(self, slot: Slot) -> None:
        """Called by its reservation."""
        with self._lock:
            self._reserved.remove(slot.key)
        self._vacate(slot)

    def _vacate(self, slot: Slot) -> None:
        """Nobody reads ``slot`` any more, and nobody fills it."""
        slot.give_back()
        with self._lock:
            slot.key, slot.digest = NOBODY, b""
            slot.block.used -= 1
            if slot.block.used:
                heapq.heappush(self._vacant, slot)
            else:
                self._vacant = [other for other in self._vacant if other.block is not slot.block]
                heapq.heapify(self._vacant)
                self._slots -= slot.block.slots
            self._vacated.notify_all()

    def _take_vacant(self) -> Slot:
        """The vacant slot with the lowest number; where all slots there may be are in use, one that is still read."""
        if not self._vacated.wait_for(lambda: self._vacant or self._slots < self.capacity, UNPIN_SECONDS):
            raise PoolFullError(f"no room for another expert: what was freed is still read after {UNPIN_SECONDS:g} s")
        if not self._vacant:
            self._add_block()
        slot = heapq.heappop(self._vacant)
        slot.block.used += 1
        return slot

    def _add_block(self) -> None:
        block = Block(min(slots_per_block(self.form), self.capacity - self._slots), self.form, self._device)
        self._slots += block.slots
        for place in range(block.slots):
            heapq.heappush(self._vacant, Slot(next(self._numbers), block, place))


class Pins:
    """Of some experts of a layer; made for each request, so it is no generator, which takes longer."""

    __slots__ = ("_keys", "_pool", "_slots")

    def __init__(self, pool: ExpertPool, keys: Sequence[ExpertKey]) -> None:
        self._pool = pool
        self._keys = keys
        self._slots: dict[int, Slot] = {}

    def __enter__(self) -> dict[int, Slot]:
        self._slots = self._pool.pin(self._keys)
        return self._slots

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.unpin(self._slots.values())


class Reservation:
    """A slot that is being filled. What leaves its ``with`` without having published it gives it up."""

    def __init__(self, pool: ExpertPool, slot: Slot) -> None:
        self._pool = pool
        self._slot = slot
        self._published = False

    @property
    def weights(self) -> ExpertWeights:
        """To be filled."""
        return self._slot.weights

    def publish(self, digest: bytes | None = None, expected: bytes | None = None) -> None:
        """It is filled, and held from now on.

        Args:
            digest: of its bytes, where who filled it has made that on the way; None has it made here.
            expected: what that must be; None where they are the first of their kind.

        Raises:
            DamagedExpertError: it is another one.
        """
        digest = digest or digest_of(self._slot.weights)
        if expected is not None and digest != expected:
            layer, expert = self._slot.key
            raise DamagedExpertError(f"expert {expert} of layer {layer} is damaged: its bytes do not fit its digest")
        self._slot.digest = digest
        self._pool.publish(self._slot)
        self._published = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._published:
            self._pool.abandon(self._slot)
