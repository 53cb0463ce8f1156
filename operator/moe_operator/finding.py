"""What is told of a deployment: a reason and words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from moe_contract.model import ModelProblem
from moe_operator.api import Reason
from moe_operator.text import on_one_line


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a condition tells: what is in the way, or how far things are; whoever's words, on one line."""

    reason: Reason
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", on_one_line(self.message))

    @classmethod
    def of(cls, problem: ModelProblem) -> Self:
        """What the directory found wrong with a model."""
        return cls(Reason.named(problem.reason), problem.message)
