"""What a process asks of the node it runs on, beside Ray's CPUs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one process, in the words of both Ray and Kubernetes.

    Attributes:
        gpus: whole ones, or a part of one; 0 asks for none.
        accelerator: the kind that its node has, such as ``H100``; None for any.
        label_selector: labels of its node in Ray's syntax: ``a``, ``!a``, ``in(a, b)``, ``!in(a, b)``.
    """

    gpus: float = 0.0
    accelerator: str | None = None
    label_selector: Mapping[str, str] = field(default_factory=dict)

    @property
    def actor_options(self) -> dict[str, Any]:
        """As Serve takes them in ``ray_actor_options``; what is not asked for is not there."""
        gpus = int(self.gpus) if self.gpus == int(self.gpus) else self.gpus
        return {
            **({"num_gpus": gpus} if self.gpus else {}),
            **({"accelerator_type": self.accelerator} if self.accelerator else {}),
            **({"label_selector": dict(sorted(self.label_selector.items()))} if self.label_selector else {}),
        }

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.actor_options)

    @property
    def part_of_a_gpu(self) -> float:
        """Of one GPU's memory, the part that its processes may take: each computes on one GPU."""
        return min(1.0, self.gpus)
