"""``spec.rebalance`` of a MoEDeployment: whether, when and within which limits experts are moved to where the traffic
wants them."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from moe_contract.applications import RECORD_ROWS
from moe_operator.api.base import AbsolutePath, ApiModel
from moe_operator.api.quantities import bytes_between, duration_between, not_below, read_bytes, read_duration
from moe_operator.api.rules import absolute_path, cron_fields, required_with_cure, validations

_PATH = "spec.rebalance"
_MOST_TEXT = 64
MOST_WINDOWS = 16
USUAL_HORIZON = timedelta(hours=1)


def _checked_duration(text: str) -> str:
    read_duration(text)
    return text


def _checked_bytes(text: str) -> str:
    read_bytes(text)
    return text


Duration = Annotated[str, AfterValidator(_checked_duration)]
Bytes = Annotated[str, AfterValidator(_checked_bytes)]


class RebalanceMode(StrEnum):
    """What the operator does about a better placement."""

    OFF = "Off"
    PROPOSE = "Propose"
    AUTO = "Auto"


class RollbackPolicy(StrEnum):
    """What is taken back when its measured figures are no better than those before it."""

    AUTO = "Auto"
    ALWAYS = "Always"
    NEVER = "Never"


class Window(ApiModel):
    """A time in which experts may be moved."""

    cron: str = Field(
        min_length=1, max_length=128, json_schema_extra=validations(cron_fields(f"{_PATH}.windows[].cron", "0 2 * * *"))
    )
    """When it begins: minute, hour, day of the month, month, day of the week, such as `0 2 * * *`."""
    duration: Duration = Field(
        max_length=_MOST_TEXT,
        json_schema_extra=validations(duration_between(f"{_PATH}.windows[].duration", "1m", "168h", "3h")),
    )
    """How long it is, such as 3h."""
    time_zone: str = Field(default="UTC", min_length=1, max_length=64)
    """Of the cron expression, as the IANA names it, such as Europe/Berlin."""

    @property
    def length(self) -> timedelta:
        """How long it is."""
        return read_duration(self.duration)


class Record(ApiModel):
    """Files of live traffic, from which others may guess what its text was."""

    path: Annotated[
        AbsolutePath,
        Field(
            min_length=1,
            max_length=4096,
            json_schema_extra=required_with_cure(
                f"{_PATH}.record.path is missing: write e.g. record: {{path: /var/lib/moe-traces}}"
            )
            | validations(*absolute_path(f"{_PATH}.record.path", "/var/lib/moe-traces")),
        ),
    ]
    """Absolute path of a folder, as the nodes of attention replicas see it; made where there is none. Its files are \
readable by the user of Ray's processes alone."""
    sample_rows: int = Field(default=RECORD_ROWS, ge=1, le=10000)
    """Tokens that each attention replica writes a minute, chosen at random; of each all its expert sets."""
    max_bytes: Bytes = Field(
        default="1Gi",
        max_length=_MOST_TEXT,
        json_schema_extra=validations(bytes_between(f"{_PATH}.record.maxBytes", "1Mi", "1Ti", "1Gi")),
    )
    """Most bytes of all such files in the folder, such as 1Gi: the oldest leave, whichever replica wrote them."""

    @property
    def bytes(self) -> int:
        """Most bytes of all files."""
        return read_bytes(self.max_bytes)


class Rebalance(ApiModel):
    """Whether, when and within which limits experts are moved to where the traffic wants them."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            not_below(_PATH, "cooldown", "interval", "nothing is looked at within an interval anyway"),
            not_below(_PATH, "horizon", "interval", "a placement stays for an interval at least"),
        )
    )

    mode: RebalanceMode = RebalanceMode.OFF
    """"Off" (in quotes, since YAML takes the bare word for false): the operator places by itself only what must be \
placed. Propose: it writes an ExpertPlacement where the \
traffic makes one worth its price, and a person approves it. Auto: it approves it as well, and takes it back where \
the measured figures are no better."""
    interval: Duration = Field(
        default="5m",
        max_length=_MOST_TEXT,
        json_schema_extra=validations(duration_between(f"{_PATH}.interval", "10s", "24h", "5m")),
    )
    """How often the traffic is looked at, and for how long a new placement is observed before it is judged."""
    min_gain_percent: int = Field(default=3, ge=0, le=99)
    """Part of the time that experts take, by the model of cost, that a proposal must at least save."""
    horizon: Duration | None = Field(
        default=None,
        max_length=_MOST_TEXT,
        json_schema_extra=validations(duration_between(f"{_PATH}.horizon", "10s", "8760h", "1h")),
    )
    """For how long a placement is expected to serve: within it the gain must exceed the price. Default: 1h, or the \
interval where that is longer."""
    max_bytes_per_second: Bytes | None = Field(
        default=None,
        max_length=_MOST_TEXT,
        json_schema_extra=validations(bytes_between(f"{_PATH}.maxBytesPerSecond", "64Ki", "1Ti", "100Mi")),
    )
    """Most bytes of experts that each shard gets in a second while others answer for them, such as 100Mi. \
Default: no bound."""
    link_bytes_per_second: Bytes = Field(
        default="1250M",
        max_length=_MOST_TEXT,
        json_schema_extra=validations(bytes_between(f"{_PATH}.linkBytesPerSecond", "64Ki", "1Ti", "1250M")),
    )
    """Most bytes that the link of a node to others carries in a second, each way; 1250M is 10 Gb/s. Nothing measures \
it: proposals are made for it and priced by it. Slower links are worth more copies moved so that fewer nodes are \
visited."""
    cooldown: Duration | None = Field(
        default=None,
        max_length=_MOST_TEXT,
        json_schema_extra=validations(duration_between(f"{_PATH}.cooldown", "10s", "720h", "10m")),
    )
    """After a placement came into force, nothing is proposed for so long; for twice, four times as long and so on up \
to a day after one, two and more proposals in a row that were taken back. Default: twice the interval."""
    windows: list[Window] = Field(default_factory=list, max_length=MOST_WINDOWS)
    """Times in which the operator proposes and, with Auto, begins to move. Default: any."""
    history_limit: int = Field(default=10, ge=1, le=100)
    """Of the ExpertPlacements that the operator wrote and that are over, so many are kept, and beside them the last \
that was superseded, and up to 14 in a row that were taken back, from which the cooldown is reckoned. What a person \
wrote is never removed."""
    rollback: RollbackPolicy = RollbackPolicy.AUTO
    """Auto: a placement that the operator proposed and approved is taken back where its measured figures are no \
better than those before. Always: also one that a person wrote or approved. Never: it is only told."""

    record: Record | None = None
    """Files of live traffic, whatever the mode, for `moe-placement compare` to replay what-ifs offline. Which experts \
tokens chose can betray what their text was: who may read the files should be who may read the requests. Default: \
none are written."""

    @property
    def every(self) -> timedelta:
        """How often the traffic is looked at."""
        return read_duration(self.interval)

    @property
    def serves_for(self) -> timedelta:
        """For how long a placement is expected to serve."""
        return read_duration(self.horizon) if self.horizon else max(USUAL_HORIZON, self.every)

    @property
    def rests_for(self) -> timedelta:
        """How long nothing is proposed after a placement came into force."""
        return read_duration(self.cooldown) if self.cooldown else 2 * self.every

    @property
    def link(self) -> int:
        """Bytes a second of a node's link to others, each way."""
        return read_bytes(self.link_bytes_per_second)

    @property
    def bytes_per_second(self) -> int | None:
        """Most bytes of experts that each shard gets in a second; None where there is no bound."""
        return read_bytes(self.max_bytes_per_second) if self.max_bytes_per_second else None
