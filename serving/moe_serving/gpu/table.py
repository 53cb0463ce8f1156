"""Where the weights of experts lie, as kernels find them: in any slots of an ``ExpertPool``, whichever their blocks.

A pool grows by blocks, so a layer's experts are no one tensor. Each projection is found from one address, of the first
expert, by a distance: kernels get a pointer whose alignment they know, and an integer for each expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

UNIT_BYTES = 16
"""In which distances are counted: what one thread reads at once. Slots begin on a page."""


@dataclass(frozen=True, slots=True)
class ExpertTable:
    """Experts by place, ``0 .. len - 1``.

    Attributes:
        gate_up, down: ``[2I, H]`` and ``[H, I]``, from whose first byte distances count.
        gate_up_at, down_at: int64 ``[E]``, distances in units of ``UNIT_BYTES``; some are negative.
        gate_up_scale, down_scale: float32 ``[E, 2I]`` and ``[E, H]``, by which each row of the weights is to be
            multiplied; None where weights are what they say.
        kept: all tensors, so that their memory stays.
    """

    gate_up: Tensor
    down: Tensor
    gate_up_at: Tensor
    down_at: Tensor
    gate_up_scale: Tensor | None
    down_scale: Tensor | None
    activation: str
    kept: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        gate_ups: Sequence[Tensor],
        downs: Sequence[Tensor],
        activation: str,
        scales: tuple[Tensor, Tensor] | None = None,
    ) -> ExpertTable:
        """Of experts whose tensors are contiguous, each wherever it is on their device.

        Args:
            scales: float32 ``[E, 2I]`` and ``[E, H]``.

        Raises:
            ValueError: they are not of one form, or not as kernels can read them.
        """
        gate_up_scale, down_scale = scales or (None, None)
        return cls(
            gate_ups[0], downs[0], _distances("gate_up", gate_ups), _distances("down", downs), gate_up_scale,
            down_scale, activation, (*gate_ups, *downs),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.gate_up_at)

    @property
    def hidden(self) -> int:
        return self.gate_up.shape[1]

    @property
    def inner(self) -> int:
        return self.down.shape[1]

    @property
    def unit(self) -> int:
        """Elements of ``UNIT_BYTES``."""
        return UNIT_BYTES // self.gate_up.dtype.itemsize


def _distances(name: str, tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    for place, tensor in enumerate(tensors):
        if (tensor.shape, tensor.dtype, tensor.device) != (first.shape, first.dtype, first.device):
            raise ValueError(
                f"{name} of expert {place} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}, and of expert 0 "
                f"{first.dtype} {list(first.shape)} on {first.device}: experts of one table have one form"
            )
        if not tensor.is_contiguous():
            raise ValueError(f"{name} of expert {place} is not contiguous: give a copy of it that is")
        if tensor.data_ptr() % UNIT_BYTES:
            raise ValueError(
                f"{name} of expert {place} begins {tensor.data_ptr() % UNIT_BYTES} bytes behind a multiple of "
                f"{UNIT_BYTES}: copy it to memory of its own"
            )
    distances = [(tensor.data_ptr() - first.data_ptr()) // UNIT_BYTES for tensor in tensors]
    return torch.tensor(distances, dtype=torch.int64, device=first.device)
