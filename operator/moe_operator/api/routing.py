"""``spec.routing`` of a MoEDeployment: whether all experts that gates choose are computed."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from moe_contract.applications import LOSS_INCREASE, MOST_PAIRS_SAVED, PAIRS_SAVED, RoutingConfig
from moe_operator.api.base import AbsolutePath, ApiModel
from moe_operator.api.rules import QUOTED_SELF, Rule, absolute_path, required_with_cure, validations

_PATH = "spec.routing"
_EXAMPLE = "/models/tiny.calibration.json"
_CURE = f"{_PATH}.calibration is missing: write with moe-serve calibrate what calibration: {{path: {_EXAMPLE}}} names"
_LOSS = r"^0[.][0-9]{0,5}[1-9][0-9]{0,5}$"


def _checked_loss(text: str) -> str:
    if not re.fullmatch(_LOSS, text, re.ASCII):
        raise ValueError(f"{text[:100]!a} is no such loss: write a decimal number above 0 and below 1, such as '0.005'")
    return text


class RoutingMode(StrEnum):
    """Whether all experts that gates choose are computed."""

    EXACT = "Exact"
    ADAPTIVE = "Adaptive"


class CalibrationSource(ApiModel):
    """What `moe-serve calibrate` wrote."""

    path: Annotated[
        AbsolutePath,
        Field(
            min_length=1,
            max_length=4096,
            json_schema_extra=required_with_cure(
                f"{_PATH}.calibration.path is missing: write e.g. calibration: {{path: {_EXAMPLE}}}"
            )
            | validations(*absolute_path(f"{_PATH}.calibration.path", _EXAMPLE)),
        ),
    ]
    """Absolute path of the file, as the nodes of attention replicas see it."""


class Routing(ApiModel):
    """Whether all experts that gates choose are computed."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            Rule(
                rule="self.mode != 'Adaptive' || has(self.calibration)",
                message=_CURE,
                field_path=".calibration",
            )
        )
    )

    mode: RoutingMode = RoutingMode.EXACT
    """Exact: all are, and greedy answers are the unsharded model's. Adaptive: those of low gate weight are left out \
where a token's others are enough, as the calibration allows; answers differ, and their system_fingerprint says so. \
Where it does not allow what is asked, all are computed, and condition AdaptiveRouting says why."""
    pairs_saved: int = Field(default=int(PAIRS_SAVED), ge=1, le=int(MOST_PAIRS_SAVED))
    """Percent of all pairs of a token and an expert that are left out, as far as maxLossIncrease allows."""
    max_loss_increase: Annotated[
        str,
        AfterValidator(_checked_loss),
        Field(
            max_length=16,
            json_schema_extra=validations(
                Rule(
                    rule=f"self.matches('{_LOSS}')",
                    message=(
                        f"{_PATH}.maxLossIncrease is %s: it must be a decimal number above 0 and below 1, in quotes, "
                        f"such as '{LOSS_INCREASE}'"
                    ),
                    values=(QUOTED_SELF,),
                )
            ),
        ),
    ] = str(LOSS_INCREASE)
    """By how much the loss on the calibration's held-out text may grow, in nats per token, a decimal number in \
quotes: the upper end of its 95% interval counts."""
    calibration: CalibrationSource | None = None
    """What was measured of this model; Adaptive needs it."""

    @model_validator(mode="after")
    def _is_calibrated(self) -> Routing:
        if self.mode is RoutingMode.ADAPTIVE and self.calibration is None:
            raise ValueError(_CURE)
        return self

    @property
    def config(self) -> RoutingConfig | None:
        """What attention replicas are told; None with Exact."""
        if self.mode is RoutingMode.EXACT or self.calibration is None:
            return None
        return RoutingConfig(
            pairs_saved=self.pairs_saved,
            max_loss_increase=float(self.max_loss_increase),
            calibration=self.calibration.path,
        )
