"""The experts that a shard holds: a dictionary with a bound. Filled by the loader, read by the server's thread.

A lookup takes no lock (a dictionary's own operations are atomic), and an expert freed while it is being computed lives
until that computation drops it.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from moe_serving.checkpoint.reader import ExpertWeights
from moe_serving.experts.errors import StoreFullError


class ExpertStore:
    """Weights by (layer, expert)."""

    def __init__(self, layers: int, experts: int) -> None:
        self.capacity = 0
        """Experts that may be held, over all layers: slots per layer times layers, and the spare buffers."""
        self._weights: dict[tuple[int, int], ExpertWeights] = {}
        self._held = np.zeros((layers, experts), dtype=bool)
        self._lock = threading.Lock()

    def get(self, layer: int, expert: int) -> ExpertWeights | None:
        return self._weights.get((layer, expert))

    def add(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        """
        Raises:
            StoreFullError: ``capacity`` experts are held already.
        """
        with self._lock:
            if not self._held[layer, expert]:
                self.check_room()
            self._weights[layer, expert] = weights
            self._held[layer, expert] = True

    def check_room(self) -> None:
        """
        Raises:
            StoreFullError: see ``add``; asked before an expert is read, so that memory stays within the bound too.
        """
        if len(self._weights) >= self.capacity:
            raise StoreFullError(f"no room for another expert: {self.capacity} experts are held")

    def remove(self, layer: int, expert: int) -> None:
        """Free an expert; one that is not held is none."""
        with self._lock:
            self._weights.pop((layer, expert), None)
            self._held[layer, expert] = False

    def held(self) -> NDArray[np.bool_]:
        """bool ``[layers, experts]``, a copy."""
        with self._lock:
            return self._held.copy()

    def __len__(self) -> int:
        return len(self._weights)
