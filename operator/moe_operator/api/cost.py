"""``spec.cost`` of a MoEDeployment: what its accelerators cost."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

from moe_operator.api.base import ApiModel
from moe_operator.api.rules import QUOTED_SELF, Rule, required_with_cure, validations

_PRICE = r"^[0-9]{1,6}(\.[0-9]{1,4})?$"


def _checked(text: str) -> str:
    if not re.fullmatch(_PRICE, text, re.ASCII):
        raise ValueError(f"{text[:100]!a} is no price: write a decimal number in quotes, such as '2.50'")
    return text


class Cost(ApiModel):
    """What an hour of an accelerator costs, by which the status tells what tokens do."""

    currency: str = Field(default="USD", pattern="^[A-Z]{3}$")
    """Of the price, as ISO 4217 writes it, such as EUR. It is told, and nothing is converted."""
    price_per_accelerator_hour: Annotated[
        str,
        AfterValidator(_checked),
        Field(
            max_length=16,
            json_schema_extra=required_with_cure(
                "spec.cost.pricePerAcceleratorHour is missing: write e.g. cost: {currency: USD, "
                'pricePerAcceleratorHour: "2.50"}'
            )
            | validations(
                Rule(
                    rule=f"self.matches('{_PRICE}')".replace("\\", "\\\\"),
                    message=(
                        "spec.cost.pricePerAcceleratorHour is %s: it must be a decimal number below a million with at "
                        "most four digits after the point, in quotes, such as '2.50'"
                    ),
                    values=(QUOTED_SELF,),
                )
            ),
        ),
    ]
    """Price of one accelerator for an hour, a decimal number in quotes. Accelerators are what experts.resources.gpus \
of all shards and attention.resources.gpus of all attention replicas are together; where neither asks for any, each \
shard counts as one. On KubeRay each pod counts with whole GPUs, and spare pods count as shards."""

    @property
    def price(self) -> Decimal:
        """Of one accelerator for an hour."""
        return Decimal(self.price_per_accelerator_hour)
