"""``spec.sleep`` of a MoEDeployment: when it is put to sleep by itself."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from moe_operator.api.base import ApiModel
from moe_operator.api.quantities import duration_between, read_duration
from moe_operator.api.rebalance import Duration
from moe_operator.api.rules import required_with_cure, validations


class Sleep(ApiModel):
    """When it is put to sleep by itself."""

    after_idle: Duration = Field(
        max_length=64,
        json_schema_extra=required_with_cure("spec.sleep.afterIdle is missing: write e.g. sleep: {afterIdle: 30m}")
        | validations(duration_between("spec.sleep.afterIdle", "1m", "720h", "30m")),
    )
    """For how long nobody must have asked anything of the model before experts.shards is set to 0, such as 30m."""

    @property
    def idle(self) -> timedelta:
        """For how long nobody must have asked anything."""
        return read_duration(self.after_idle)
