"""The tensors that a lean step computes in, each also as kernels see the same memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT_TOKENS = 128
"""Of steps of up to so many tokens the tensors are kept: those of decoding. Larger ones would hold much memory."""


def as_array(tensor: Tensor) -> NDArray[Any]:
    """The same memory for kernels; of bfloat16, which NumPy has not, its bits as uint16."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


class Buffer(NamedTuple):
    """One piece of memory, for torch and as kernels see it."""

    tensor: Tensor
    seen: Any

    def first(self, rows: int) -> Buffer:
        return Buffer(self.tensor[:rows], self.seen[:rows])


@dataclass(frozen=True, slots=True)
class Widths:
    """Of one token: ``hidden`` its row, ``heads`` and ``kv_heads`` of ``head_dim`` each, and the gate's."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    top_k: int


@dataclass(frozen=True, slots=True)
class Home:
    """What all tensors of a step have in common.

    Attributes:
        seen: see ``table.Kernels``.
    """

    dtype: torch.dtype
    device: torch.device
    seen: Callable[[Tensor], Any]


@dataclass(frozen=True, slots=True)
class Workspace:
    """For a step of T tokens. ``hidden`` is the residual stream.

    Attributes:
        hidden, normed: ``[T, H]``.
        packed: ``[T, (N + 2 M) D]``, queries, keys and values as projected.
        query, attended: ``[T, N, D]``.
        gate: ``[T, E]``, logits.
        ids, weights: ``[T, K]``, what the gate has chosen.
    """

    hidden: Buffer
    normed: Buffer
    packed: Buffer
    query: Buffer
    attended: Buffer
    gate: Buffer
    ids: Buffer
    weights: Buffer

    @classmethod
    def of(cls, tokens: int, widths: Widths, home: Home) -> Workspace:
        def room(*shape: int, dtype: torch.dtype = home.dtype) -> Buffer:
            tensor = torch.empty(tokens, *shape, dtype=dtype, device=home.device)
            return Buffer(tensor, home.seen(tensor))

        return cls(
            hidden=room(widths.hidden),
            normed=room(widths.hidden),
            packed=room((widths.heads + 2 * widths.kv_heads) * widths.head_dim),
            query=room(widths.heads, widths.head_dim),
            attended=room(widths.heads, widths.head_dim),
            gate=room(widths.experts),
            ids=room(widths.top_k, dtype=torch.int64),
            weights=room(widths.top_k, dtype=torch.float32),
        )

    def first(self, tokens: int) -> Workspace:
        """For a smaller step, in the same memory."""
        return Workspace(
            self.hidden.first(tokens),
            self.normed.first(tokens),
            self.packed.first(tokens),
            self.query.first(tokens),
            self.attended.first(tokens),
            self.gate.first(tokens),
            self.ids.first(tokens),
            self.weights.first(tokens),
        )


class Workspaces:
    """By number of tokens."""

    def __init__(self, widths: Widths, home: Home) -> None:
        self._widths = widths
        self._home = home
        self._whole = Workspace.of(KEPT_TOKENS, widths, home)
        self._kept: dict[int, Workspace] = {}

    def of(self, tokens: int) -> Workspace:
        if tokens > KEPT_TOKENS:
            return Workspace.of(tokens, self._widths, self._home)
        if tokens not in self._kept:
            self._kept[tokens] = self._whole.first(tokens)
        return self._kept[tokens]
