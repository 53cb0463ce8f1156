"""What each process of a role asks of the node it runs on."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from moe_contract.resources import Resources as Asked
from moe_operator.api.base import ApiModel
from moe_operator.api.rules import QUOTED_SELF, Rule, validations

MOST_LABELS, MOST_SELECTOR = 8, 1024
_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL_KEY = f"^([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL}$"
_LABEL_SELECTOR = rf"^(!?{_LABEL}|!?in\({_LABEL}(, ?{_LABEL})*\))$"
"""As Ray reads them (``ray._private.label_utils``), and a Kubernetes label is one of them."""


_GPUS = Rule(
    rule="self == 0.0 || (self >= 0.0001 && self <= 1.0)",
    message=(
        "resources.gpus is %s: each process computes on one GPU, so write 1, a part of one such as 0.5 (at least "
        "0.0001), or 0 for none; for more GPUs use more shards or attention replicas"
    ),
    values=("self",),
)
_ACCELERATOR = Rule(
    rule=f"self.matches({json.dumps(f'^{_LABEL}$')})",
    message=(
        "resources.accelerator is %s: write a kind as Ray calls it, of letters, digits and . _ - within, such as H100"
    ),
    values=(QUOTED_SELF,),
)
_LABELS = Rule(
    rule=f"self.all(key, key.matches({json.dumps(_LABEL_KEY)}) && self[key].matches({json.dumps(_LABEL_SELECTOR)}))",
    message=(
        "resources.labelSelector has a label that cannot be read: write e.g. zone: a, or as value !a, in(a, b) or "
        "!in(a, b), each label of at most 63 letters, digits and . _ - within"
    ),
)


class Resources(ApiModel):
    """What each process of a role asks of its node. A change makes new processes: shards one after the other, each once
    all others hold their experts; attention replicas as Serve replaces them."""

    gpus: Annotated[float | None, Field(json_schema_extra=validations(_GPUS))] = None
    """GPUs of each process: 1, or a part of one, such as 0.5, which it then shares with others; on kubeRay its \
pod has a whole one. Default: none is \
asked for, and a process takes one that its node has, if any, whoever else has it too."""
    accelerator: Annotated[
        str | None, Field(min_length=1, max_length=63, json_schema_extra=validations(_ACCELERATOR))
    ] = None
    """Kind of accelerator that its node must have, as Ray calls it, such as H100. On kubeRay pods \
come to nodes with the label ray.io/accelerator-type, or of such products by nvidia.com/gpu.product. Default: any, or \
none."""
    label_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=MOST_SELECTOR)]],
        Field(max_length=MOST_LABELS, json_schema_extra=validations(_LABELS)),
    ] = Field(default_factory=dict)
    """Labels that its node must have, each as Ray reads them: `a`, `!a`, `in(a, b)` or `!in(a, b)`. Default: any."""


def asked(resources: Resources | None) -> Asked:
    """In the words of the contract."""
    if resources is None:
        return Asked()
    return Asked(resources.gpus or 0.0, resources.accelerator, resources.label_selector)
