"""The inner loops of a lean step by device: what differs between a CPU and a GPU is this table, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from moe_serving.engine.lean import kernels
from moe_serving.engine.lean.workspace import as_array


class Kernels(NamedTuple):
    """Functions by the contract of those of ``kernels`` that have their names.

    Attributes:
        seen: what they take in a tensor's place, the same memory.
    """

    seen: Callable[[Tensor], Any]
    norm: Callable[..., None]
    place: Callable[..., None]
    attend: Callable[..., None]
    choose: Callable[..., None]


ON_CPU = Kernels(as_array, kernels.norm, kernels.place, kernels.attend, kernels.choose)


def kernels_for(device: str) -> Kernels:
    """Of a type of device among ``choice.DEVICES``.

    Raises:
        ImportError: there is no Triton, as in torch's builds for CPUs.
    """
    if device == "cpu":
        return ON_CPU
    from moe_serving.gpu.lean import kernels_in_triton  # noqa: PLC0415 - Triton is not everywhere

    return kernels_in_triton()
