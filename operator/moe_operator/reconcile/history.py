"""What was told of an object before, and conditions that go on from there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from moe_operator.api import Condition, ConditionType, MoEDeploymentStatus
from moe_operator.api.status import TIME_FORMAT, ConditionStatus, next_condition
from moe_operator.finding import Finding


@dataclass(frozen=True, slots=True)
class History:
    """What was told before, and of which spec and when it is told now."""

    before: MoEDeploymentStatus
    generation: int
    now: datetime

    def condition(self, kind: ConditionType, status: ConditionStatus, why: Finding) -> Condition:
        """The condition, with the time since when its status is what it is."""
        earlier, now = self.before.condition(kind), self.now.strftime(TIME_FORMAT)
        return next_condition(earlier, kind, status, why.reason, why.message, self.generation, now)

    def status_with(self, *conditions: Condition) -> MoEDeploymentStatus:
        """The status told before, with these conditions in place of those of their types."""
        told = {condition.type: condition for condition in (*self.before.conditions, *conditions)}
        ordered = sorted(told.values(), key=lambda condition: _ORDER.get(condition.type, len(_ORDER)))
        return self.before.model_copy(update={"observed_generation": self.generation, "conditions": tuple(ordered)})


_ORDER = {str(kind): place for place, kind in enumerate(ConditionType)}
