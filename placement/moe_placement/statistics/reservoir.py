"""A bounded, mergeable, decaying uniform sample of tokens with the expert sets of all their layers.

Each token draws an exponential key; the tokens with the smallest key / weight stay (Efraimidis and Spirakis, 2006, in
the exponential form). Decay divides old keys by the factor, merging keeps the smallest of both: the result is the
sample that one reservoir over all traffic would have drawn. Keys are kept as logarithms: a model that rests for a day
decays a thousand times, and the sample must be there when it wakes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_TINY = float(np.finfo(np.float64).tiny)


class Reservoir:
    """At most ``capacity`` tokens.

    Keys come from the operating system's entropy unless a seed is given: two reservoirs with one seed draw equal keys
    for different tokens, and merging or removing would take these for the same.

    Attributes:
        ids: int16 ``[n, layers, k]``; -1 where there is no expert.
        gates: float16 like ``ids``; NaN where the gate weights are not known.
        keys: float64 ``[n]``, logarithms, ascending; equal keys mean the same token.
    """

    def __init__(self, capacity: int, layers: int, top_k: int, seed: int | None = None) -> None:
        self.capacity = capacity
        self.ids: NDArray[np.int16] = np.zeros((0, layers, top_k), dtype=np.int16)
        self.gates: NDArray[np.float16] = np.zeros((0, layers, top_k), dtype=np.float16)
        self.keys: NDArray[np.float64] = np.zeros(0)
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, ids: NDArray[np.int16], gates: NDArray[np.float16] | None = None) -> None:
        """Offer a batch ``[tokens, layers, k]``."""
        keys = np.log(np.maximum(self._random.exponential(size=len(ids)), _TINY))
        if len(self) >= self.capacity:
            near = np.flatnonzero(keys < (self.keys[-1] if self.capacity else -np.inf))
            ids, keys = ids[near], keys[near]
            gates = None if gates is None else gates[near]
        if gates is None:
            gates = np.full(ids.shape, np.nan, dtype=np.float16)
        self._keep_smallest(ids, gates, keys)

    def _keep_smallest(self, ids: NDArray[np.int16], gates: NDArray[np.float16], keys: NDArray[np.float64]) -> None:
        all_keys = np.concatenate([self.keys, keys])
        order = np.argsort(all_keys, kind="stable")[: self.capacity]
        self.ids = np.concatenate([self.ids, ids])[order]
        self.gates = np.concatenate([self.gates, gates])[order]
        self.keys = all_keys[order]

    def decay(self, factor: float) -> None:
        """Make every token held weigh ``factor`` as much."""
        self.keys = self.keys - math.log(factor)

    def merge(self, other: Reservoir) -> None:
        """Take in another sample; its capacity may differ."""
        self._keep_smallest(other.ids, other.gates, other.keys)

    def remove(self, other: Reservoir) -> None:
        """Drop the tokens that ``other`` holds as well."""
        keep = ~np.isin(self.keys, other.keys)
        self.ids, self.gates, self.keys = self.ids[keep], self.gates[keep], self.keys[keep]

    def copy(self) -> Reservoir:
        """An independent copy; it draws other keys than the original from here on."""
        twin = Reservoir(self.capacity, self.ids.shape[1], self.ids.shape[2])
        (twin._random,) = self._random.spawn(1)  # reproducible where the original is
        twin.ids, twin.gates, twin.keys = self.ids.copy(), self.gates.copy(), self.keys.copy()
        return twin
