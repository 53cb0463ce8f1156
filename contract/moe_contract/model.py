"""What a checkpoint is, as the process that can see it found it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moe_contract.applications import Weights
from moe_contract.base import MOST_COUNTED, Name, Since, WireModel, Words
from moe_contract.sizes import MOST_EXPERTS, MOST_LAYERS

Positive = Annotated[int, Field(ge=1, le=MOST_COUNTED)]

ModelProblemReason = Literal[
    "PathNotFound", "ConfigMissing", "ConfigInvalid", "NotMixtureOfExperts", "UnsupportedArchitecture",
    "WeightsMissing", "WeightsTruncated", "TokenizerMissing", "DownloadFailed", "AccessDenied",
]  # fmt: skip

_SINCE_ONE = frozenset({"DownloadFailed", "AccessDenied"})
"""Reasons that contract 1 brought. Release 0.1.0, which has 0, refuses a whole report that tells one."""


class ModelFacts(WireModel):
    """Enough of a model to place its experts.

    Attributes:
        digest: ``sha256:…`` over config, tensor headers and samples of the weights; equal digests mean interchangeable
            shards.
        architecture: the family's short name, such as ``Mixtral``.
        layers: MoE layers (dense layers of the model are not counted; MoE layers are numbered 0 .. layers - 1).
        experts: experts per MoE layer.
        top_k: experts per token.
        bytes_per_expert: bytes of one expert of one layer as shards hold it.
        dtype: the dtype served: float32, bfloat16 or float16.
        max_context: the longest sequence the model was made for, in tokens.
        weights: FP8 where shards hold experts so; they compute in ``dtype`` all the same.
    """

    digest: Name
    architecture: Name
    layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    experts: Annotated[int, Field(ge=1, le=MOST_EXPERTS)]
    top_k: Annotated[int, Field(ge=1, le=MOST_EXPERTS)]
    bytes_per_expert: Positive
    dtype: Name
    max_context: Positive
    weights: Annotated[Weights, Since(2)] = "Checkpoint"


class ModelProblem(WireModel):
    """Why a model cannot be served; the message names the path, what was found and the cure."""

    reason: ModelProblemReason
    message: Words

    def known_to(self, contract: int) -> ModelProblem:
        """With a reason that a process of ``contract`` can read; the message says what it really is."""
        if contract < 1 and self.reason in _SINCE_ONE:
            return self.model_copy(update={"reason": "PathNotFound"})
        return self
