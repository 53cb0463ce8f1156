"""The kinds of ``moe-operator.io`` as pydantic types, the names they use, and the generator of their CRDs.

Pure: no I/O but the generator's file. Read by everything in the operator; it reads nothing of the operator but errors.

``kubectl moe`` needs names, reasons and phases alone, and is to answer at once: what the types lead to (pydantic,
NumPy) is imported when one is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_operator.api.deployment import Identity, MoEDeployment
    from moe_operator.api.phase import Phase
    from moe_operator.api.placement import ExpertPlacement, ExpertPlacementStatus, PlacementContent
    from moe_operator.api.reasons import (
        AutoscaleReason,
        ConditionType,
        PlacementConditionType,
        PlacementReason,
        Reason,
        RebalanceReason,
        RebalanceResult,
    )
    from moe_operator.api.rebalance import RebalanceMode, RollbackPolicy
    from moe_operator.api.spec import DeletionPolicy, MoEDeploymentSpec
    from moe_operator.api.status import Condition, MoEDeploymentStatus

__all__ = [
    "AutoscaleReason",
    "Condition",
    "ConditionType",
    "DeletionPolicy",
    "ExpertPlacement",
    "ExpertPlacementStatus",
    "Identity",
    "MoEDeployment",
    "MoEDeploymentSpec",
    "MoEDeploymentStatus",
    "Phase",
    "PlacementConditionType",
    "PlacementContent",
    "PlacementReason",
    "Reason",
    "RebalanceMode",
    "RebalanceReason",
    "RebalanceResult",
    "RollbackPolicy",
]

_MODULES = {
    "deployment": ("Identity", "MoEDeployment"),
    "reasons": (
        "AutoscaleReason",
        "ConditionType",
        "PlacementConditionType",
        "PlacementReason",
        "Reason",
        "RebalanceReason",
        "RebalanceResult",
    ),
    "phase": ("Phase",),
    "placement": ("ExpertPlacement", "ExpertPlacementStatus", "PlacementContent"),
    "rebalance": ("RebalanceMode", "RollbackPolicy"),
    "spec": ("DeletionPolicy", "MoEDeploymentSpec"),
    "status": ("Condition", "MoEDeploymentStatus"),
}
"""What type checkers read above, by the module that has it."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            globals()[name] = value = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
