"""``spec.experts.autoscaling`` of a MoEDeployment: within which bounds the operator chooses the number of shards."""

from __future__ import annotations

from datetime import timedelta

from pydantic import ConfigDict, Field

from moe_contract.sizes import MOST_SHARDS
from moe_operator.api.base import ApiModel
from moe_operator.api.quantities import duration_between, read_duration
from moe_operator.api.rebalance import Duration
from moe_operator.api.rules import Rule, cron_fields, required_with_cure, validations

_PATH = "spec.experts.autoscaling"
_MOST_TEXT = 64
MOST_SCHEDULES = 16


def _ordered(path: str) -> Rule:
    return Rule(
        rule="self.minShards <= self.maxShards",
        message=f"{path}.minShards is %s but {path}.maxShards is %s: raise maxShards or lower minShards",
        values=("self.minShards", "self.maxShards"),
        field_path=".minShards",
    )


class Schedule(ApiModel):
    """Bounds that hold for a time that comes again."""

    model_config = ConfigDict(json_schema_extra=validations(_ordered(f"{_PATH}.schedules[]")))

    cron: str = Field(
        min_length=1,
        max_length=128,
        json_schema_extra=validations(cron_fields(f"{_PATH}.schedules[].cron", "0 7 * * 1-5")),
    )
    """When it begins: minute, hour, day of the month, month, day of the week, such as `0 7 * * 1-5`."""
    duration: Duration = Field(
        max_length=_MOST_TEXT,
        json_schema_extra=validations(duration_between(f"{_PATH}.schedules[].duration", "1m", "168h", "12h")),
    )
    """How long it is, such as 12h."""
    time_zone: str = Field(default="UTC", min_length=1, max_length=64)
    """Of the cron expression, as the IANA names it, such as Europe/Berlin."""
    min_shards: int = Field(ge=1, le=MOST_SHARDS)
    """Fewest shards meanwhile; not below autoscaling.minShards."""
    max_shards: int = Field(ge=1, le=MOST_SHARDS)
    """Most shards meanwhile; not above autoscaling.maxShards."""

    @property
    def length(self) -> timedelta:
        """How long it is."""
        return read_duration(self.duration)


class Autoscaling(ApiModel):
    """Bounds, targets and times of the number of expert shards, which the operator then writes to experts.shards."""

    model_config = ConfigDict(json_schema_extra=validations(_ordered(_PATH)))

    min_shards: int = Field(default=1, ge=1, le=MOST_SHARDS)
    """Fewest shards. What the copies need runs in any case."""
    max_shards: int = Field(
        ge=1,
        le=MOST_SHARDS,
        json_schema_extra=required_with_cure(
            f"{_PATH}.maxShards is missing: write e.g. autoscaling: {{minShards: 2, maxShards: 8}}"
        ),
    )
    """Most shards; never more than the model has experts per MoE layer."""
    target_utilization: int = Field(default=70, ge=5, le=95)
    """Percent of its time in which the busiest shard shall answer somebody. Above it shards are added; they are \
removed where the busiest would stay 15% below it."""
    itl_ms: int | None = Field(default=None, ge=1, le=60000)
    """Milliseconds between two tokens of an answer (the median of what is measured) above which shards are added, as \
far as it is shards that it takes them: their part of the time is the busiest one's utilisation. Default: no bound."""
    scale_up_after: Duration = Field(
        default="15s",
        max_length=_MOST_TEXT,
        json_schema_extra=validations(duration_between(f"{_PATH}.scaleUpAfter", "5s", "1h", "15s")),
    )
    """For how long more shards must have been wanted before they are added: as many as were wanted all that time."""
    scale_down_after: Duration = Field(
        default="5m",
        max_length=_MOST_TEXT,
        json_schema_extra=validations(duration_between(f"{_PATH}.scaleDownAfter", "5s", "24h", "5m")),
    )
    """For how long fewer must have sufficed before shards are removed: down to the most that were wanted meanwhile."""
    schedules: list[Schedule] = Field(default_factory=list, max_length=MOST_SCHEDULES)
    """Bounds by time, which hold at once when one begins and ends. Of several the first that is listed counts."""

    @property
    def waits_up(self) -> timedelta:
        """For how long more shards must have been wanted."""
        return read_duration(self.scale_up_after)

    @property
    def waits_down(self) -> timedelta:
        """For how long fewer must have sufficed."""
        return read_duration(self.scale_down_after)
