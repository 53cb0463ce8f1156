"""Why a model cannot be served, in the words the operator shows."""

from __future__ import annotations

from moe_contract.model import ModelProblem, ModelProblemReason
from moe_serving.errors import MoEServingError


class ModelError(MoEServingError):
    """A checkpoint that cannot be served; ``reason`` is the machine's word for it, the message the human's."""

    def __init__(self, reason: ModelProblemReason, message: str) -> None:
        super().__init__(message)
        self.reason: ModelProblemReason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[ModelError], tuple[ModelProblemReason, str]]:
        return ModelError, (self.reason, self.message)

    def to_wire(self) -> ModelProblem:
        return ModelProblem(reason=self.reason, message=self.message)
