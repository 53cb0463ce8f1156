"""What a status says, in a form that tables can hold."""

from typing import Any

from moe_operator.api import ConditionType

READY, PROGRESSING, DEGRADED, MODEL, RUNTIME, RECONCILING, STALLED, *_OTHERS = ConditionType
DRAINED, PAUSED, BEHIND, RECORDING, *_ = _OTHERS


def told(status: Any) -> dict[str, str]:
    """Condition -> ``status reason``, of those that are not for kstatus."""
    return {c.type: f"{c.status} {c.reason}" for c in status.conditions if c.type not in (RECONCILING, STALLED)}


def message(status: Any, kind: ConditionType) -> str:
    return status.condition(kind).message
