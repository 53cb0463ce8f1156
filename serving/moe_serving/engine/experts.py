"""The engine's view of experts: an answer for rows of a layer, wherever the experts are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Pending(Protocol):
    """A layer that is under way. It must be collected, once, and before the next one is submitted."""

    def collect(self) -> Tensor:
        """Wait for the answer, ``[T, H]`` in the dtype and on the device of ``hidden``.

        Raises:
            ExpertsUnavailableError: no live copy of some expert answered in time.
        """
        ...


class ExpertsClient(ABC):
    """Computes MoE layers. Called by the engine thread, one layer at a time.

    Tensors that it is given are its own until it has answered: the engine overwrites them with those of the next layer.
    """

    @abstractmethod
    def submit(self, layer: int, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Pending:
        """Ask for gate-weighted sums of the chosen experts' outputs, and do not wait for them.

        Args:
            layer: number of the MoE layer, ``0 .. layers - 1`` (dense layers are not counted).
            hidden: ``[T, H]`` rows, one per token.
            expert_ids: int64 ``[T, K]``.
            weights: ``[T, K]``, the gate's weight of each chosen expert.
        """
        ...

    def forward(self, layer: int, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        """``submit`` and ``collect``, for who has nothing else to do meanwhile."""
        return self.submit(layer, hidden, expert_ids, weights).collect()


@dataclass(frozen=True, slots=True)
class Computed:
    """A ``Pending`` of a client that computes when it is asked."""

    sums: Tensor

    def collect(self) -> Tensor:
        return self.sums
