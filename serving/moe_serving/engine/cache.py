"""Keys and values of all running sequences: two tensors per layer, with a row for each token.

Each sequence owns blocks of rows (``block_allocator``). The tensors have as many rows as the allocator asks for, never
more; on a CPU only rows that were written take memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Of one row in one layer, for keys and for values alike."""

    layers: int
    heads: int
    head_dim: int


class KeyValueCache(Cache):
    """transformers' cache over packed tokens: ``update`` files the keys and values of a step under their rows."""

    def __init__(self, shape: CacheShape, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layers=[])
        self._shape = shape
        self._dtype, self._device = dtype, device
        self.keys: list[Tensor] = self._allocate(rows)
        self.values: list[Tensor] = self._allocate(rows)
        self._seen: list[tuple[Any, Any]] = []
        self._step_rows = torch.empty(0, dtype=torch.int64)
        self._kept_from = 0

    @property
    def rows(self) -> int:
        return int(self.keys[0].shape[0])

    def seen(self, view: Callable[[Tensor], Any]) -> list[tuple[Any, Any]]:
        """Keys and values of each layer as kernels take them, made once; ``view`` is always the same."""
        if not self._seen:
            self._seen = [(view(keys), view(values)) for keys, values in zip(self.keys, self.values, strict=True)]
        return self._seen

    def fit(self, rows: int) -> None:
        """Change the number of rows; what lies in rows that stay is kept. Where the device has no memory for it, the
        rows stay as they are, and a smaller number of them is not tried again before another one was.

        For a moment both sizes are held. That happens only when the limit was changed.
        """
        if rows in (self.rows, self._kept_from):
            return
        self._kept_from = 0
        kept = min(rows, self.rows)
        try:
            keys, values = self._allocate(rows), self._allocate(rows)
        except (RuntimeError, MemoryError) as error:  # torch's of a GPU is a RuntimeError, and of a CPU one too
            _log.warning("the cache stays at %d rows: no memory for %d beside them", self.rows, rows, exc_info=error)
            self._kept_from = rows if rows < self.rows else 0
            return
        for new, old in zip(keys + values, self.keys + self.values, strict=True):
            new[:kept] = old[:kept]
        self.keys, self.values = keys, values
        self._seen = []

    def begin_step(self, rows: Tensor) -> None:
        """Tell where the tokens of the coming step go, int64 ``[T]``."""
        self._step_rows = rows

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """File keys and values ``[1, heads, T, head_dim]`` of the step; called by each attention module."""
        self.keys[layer_idx].index_copy_(0, self._step_rows, key_states[0].transpose(0, 1))
        self.values[layer_idx].index_copy_(0, self._step_rows, value_states[0].transpose(0, 1))
        return key_states, value_states

    def _allocate(self, rows: int) -> list[Tensor]:
        shape = (rows, self._shape.heads, self._shape.head_dim)
        return [torch.empty(shape, dtype=self._dtype, device=self._device) for _ in range(self._shape.layers)]
