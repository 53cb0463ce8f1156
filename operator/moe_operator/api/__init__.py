"""The kinds of ``moe-operator.io`` as pydantic types, the names they use, and the generator of their CRDs.

Pure: no I/O but the generator's file. Read by everything in the operator; it reads nothing of the operator but errors.
"""

from moe_operator.api.deployment import Identity, MoEDeployment
from moe_operator.api.names import (
    ConditionType,
    PlacementConditionType,
    PlacementReason,
    Reason,
    RebalanceReason,
    RebalanceResult,
)
from moe_operator.api.phase import Phase
from moe_operator.api.placement import ExpertPlacement, ExpertPlacementStatus, PlacementContent
from moe_operator.api.rebalance import RebalanceMode, RollbackPolicy
from moe_operator.api.spec import DeletionPolicy, MoEDeploymentSpec
from moe_operator.api.status import Condition, MoEDeploymentStatus

__all__ = [
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
