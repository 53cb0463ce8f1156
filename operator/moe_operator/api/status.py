"""``status`` of a MoEDeployment: what the operator saw, written once at the end of each reconcile."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator

from moe_contract.load import BUSIEST, MOST_BANDS, MOST_TEXT
from moe_contract.sizes import MOST_SHARDS
from moe_operator.api.base import StatusModel
from moe_operator.api.reasons import RESTING, ConditionType, Reason

ConditionStatus = Literal["True", "False", "Unknown"]
_TYPES, _REASONS = frozenset(ConditionType), frozenset(Reason)
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
"""Of UTC."""


def time_told(text: str) -> datetime | None:
    """A time as the operator writes it, in UTC; None of anything else, which somebody else may have written."""
    try:
        return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


class Condition(StatusModel):
    """One aspect of the state, in the form all of Kubernetes uses."""

    type: Annotated[str, Field(max_length=316)]
    """Which aspect; those of this kind are listed below."""
    status: ConditionStatus
    """Whether it holds."""
    observed_generation: Annotated[int, Field(ge=0)]
    """Generation of the spec that this was judged by."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When `status` changed last."""
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Why, as one word for machines."""
    message: Annotated[str, Field(max_length=32768)]
    """Why, in words: the field, the value and the cure where something is wrong."""


MAX_MESSAGE = 4096
"""Much of a message may be another program's words; one that the API server refuses would never be told."""


def next_condition(
    before: Condition | None, kind: str, status: ConditionStatus, reason: str, message: str, generation: int, now: str
) -> Condition:
    """A condition, with the time since when its status is what it is; ``before``: as it was told last."""
    since = before.last_transition_time if before and before.status == status else None
    return Condition(
        type=kind,
        status=status,
        observed_generation=generation,
        last_transition_time=since or now,
        reason=reason,
        message=message[:MAX_MESSAGE],
    )


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]
"""A status' conditions: one of each type, which clients may merge by it."""


class ModelStatus(StatusModel):
    """What the model turned out to be, as found where Ray runs."""

    digest: str
    """Hash over configuration and tensor headers; equal digests mean interchangeable shards."""
    architecture: str
    """Family, such as Mixtral."""
    dtype: str
    """Number format it is served in."""
    layers: int
    """MoE layers."""
    experts: int
    """Experts per MoE layer."""
    top_k: int
    """Experts per token."""
    bytes_per_expert: int
    """Bytes of one expert of one layer."""
    max_context: int
    """Longest sequence the model was made for, in tokens."""


class MemoryStatus(StatusModel):
    """What the experts of a shard take of its memory."""

    needed: int
    """Bytes that its slots take when all are filled, foretold from the checkpoint's shapes and the dtype served."""
    usable: int | None = None
    """Bytes that they may take, of the shard that has least: 90% of its part of a GPU, or of the machine's memory \
among the shards on it. Absent until shards have told, and of GPUs that spec.experts.resources does not ask for."""
    slots: int | None = None
    """Slots per layer that this holds."""


class PlacementStatus(StatusModel):
    """The placement of experts that is in force."""

    revision: int
    """Number of the placement, counted by the operator."""
    epoch: int
    """Number of the routing table in force, counted by the directory."""
    balance: str | None = None
    """Mean load of a shard divided by that of the busiest, per layer, averaged: 1.00 is perfect. Counted from what \
the table in force routed; absent until that is enough."""
    fan_out: str | None = None
    """Shards that a token visits per layer, averaged. Counted as the balance is."""


class LastDecision(StatusModel):
    """How the last look at the traffic ended."""

    time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When."""
    result: Annotated[str, Field(max_length=64)]
    """Accepted: an ExpertPlacement was written. Rejected: nothing is worth its price. Failed: nothing could be said."""
    reason: Annotated[str, Field(max_length=64)]
    """Why, as one word for machines."""
    message: Annotated[str, Field(max_length=MAX_MESSAGE)]
    """Why, in words and figures."""
    revision: int | None = Field(default=None, ge=1)
    """Of the ExpertPlacement that was accepted, written now or before; absent otherwise."""


class RebalanceStatus(StatusModel):
    """What came of spec.rebalance."""

    last_decision: LastDecision | None = None
    """How the last look at the traffic ended."""
    next_evaluation: Annotated[str | None, Field(json_schema_extra={"format": "date-time"})] = None
    """When the traffic is looked at next, at the earliest; absent where that is not known."""


class LoadBand(StatusModel):
    """The busiest experts of neighbouring layers."""

    layers: Annotated[str, Field(max_length=16)]
    """First and last, such as 0-19."""
    experts: Annotated[tuple[Annotated[str, Field(max_length=20)], ...], Field(max_length=BUSIEST)]
    """The busiest first, each as `layer/expert share`, such as `3/15 812`: of what that layer was asked."""


class LoadStatus(StatusModel):
    """Where it is busy. Written at most once a minute, and only if requests came since; old traffic counts less."""

    time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """Of the counts."""
    layer_rows: int
    """Tokens through MoE layers since the directory started, each counted once per layer."""
    shards: Annotated[str, Field(max_length=MOST_TEXT)]
    """Of the work of all shards the share of each, by index, in parts of 10,000."""
    bands: Annotated[tuple[LoadBand, ...], Field(max_length=MOST_BANDS)] = ()
    """The busiest experts by band of layers; shares in parts of 10,000."""


MOST_DECISIONS = 10


class AutoscalingDecision(StatusModel):
    """Why spec.experts.shards became, or did not become, another number."""

    time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When."""
    from_shards: Annotated[int, Field(ge=0, le=MOST_SHARDS)]
    """spec.experts.shards before it."""
    to_shards: Annotated[int, Field(ge=0, le=MOST_SHARDS)]
    """Shards that were asked for; the same number where others were wanted and refused."""
    reason: Annotated[str, Field(max_length=64)]
    """Why, as one word for machines."""
    message: Annotated[str, Field(max_length=MAX_MESSAGE)]
    """Why, in words and figures."""
    utilization: Annotated[int | None, Field(ge=0, le=100)] = None
    """Percent of its time in which the busiest shard answered somebody; absent where that is not known."""
    itl_ms: Annotated[int | None, Field(ge=0)] = None
    """Milliseconds between two tokens of an answer, the median; absent where nobody got any."""


class AutoscalingStatus(StatusModel):
    """What spec.experts.autoscaling does."""

    shards: Annotated[int, Field(ge=0, le=MOST_SHARDS)]
    """spec.experts.shards as it was found, or as it was decided last: who writes another one is in its way."""
    min_shards: int | None = None
    """Fewest shards now, by the schedule in force, and the model."""
    max_shards: int | None = None
    """Most shards now, likewise."""
    schedule: int | None = None
    """Index of the schedule in force; absent while there is none."""
    utilization: Annotated[int | None, Field(ge=0, le=100)] = None
    """Percent of its time in which the busiest shard answers somebody, in steps of 5; absent where it is not known."""
    wrote: bool = False
    """Whether the API server named the operator as who wrote the number: whom it names later is in its way."""
    decisions: Annotated[tuple[AutoscalingDecision, ...], Field(max_length=MOST_DECISIONS)] = ()
    """The last ten, the newest first."""


Amount = Annotated[str, Field(max_length=32, pattern=r"^[0-9]{1,24}(\.[0-9]{1,6})?$")]
"""A decimal number, which no reader rounds."""


class CostStatus(StatusModel):
    """What it costs, by spec.cost. Told once a minute while tokens are computed, else every ten."""

    time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """Of the counts."""
    layer_rows: Annotated[int, Field(ge=0)]
    """Tokens through MoE layers since the directory started, each counted once per layer."""
    currency: Annotated[str, Field(max_length=3)]
    """Of all prices here."""
    accelerators: Amount
    """That run: GPUs that are asked for or, without any, shards."""
    per_hour: Amount
    """What these cost in an hour."""
    tokens_per_second: Amount | None = None
    """That were computed since it was told before, those of prompts included."""
    per_million_tokens: Amount | None = None
    """What a million tokens cost at that rate, prompts included; absent where there were none."""
    seconds_per_thousand_tokens: Amount | None = None
    """How long an answer takes for a thousand tokens, by the median between two; absent where nobody got any."""
    saved_shard_seconds: Annotated[int | None, Field(ge=0)] = None
    """Seconds of shards by which experts.autoscaling stayed below its maxShards; absent without a policy."""
    saved: Amount | None = None
    """What these would have cost, by the price of today."""


class SleepStatus(StatusModel):
    """What a sleep is to be woken to."""

    shards: Annotated[int, Field(ge=1, le=MOST_SHARDS)]
    """spec.experts.shards as it was when it was last not 0."""


class MoEDeploymentStatus(StatusModel):
    """What the operator saw."""

    observed_generation: int | None = None
    """Generation of the spec that this status describes; -1 until the operator has looked at the object."""
    url: str | None = None
    """Base URL of the OpenAI API that runs; before anything runs, the one it will have."""
    shards: int | None = None
    """Expert shards that exist."""
    ready_shards: int | None = None
    """Expert shards that answer, hold what they should and are not called broken by Serve."""
    selector: str | None = None
    """Label selector of the scale subresource."""
    slots_per_shard: int | None = None
    """Experts a shard can hold per layer, as set at creation, or by spec.experts.slotsPerShard."""
    model: ModelStatus | None = None
    """What the model turned out to be."""
    memory: MemoryStatus | None = None
    """What the experts of a shard take of its memory."""
    placement: PlacementStatus | None = None
    """The placement of experts that is in force."""
    load: LoadStatus | None = None
    """Where it is busy, as `kubectl moe top` shows it."""
    rebalance: RebalanceStatus | None = None
    """What came of spec.rebalance; absent with mode Off."""
    autoscaling: AutoscalingStatus | None = None
    """What spec.experts.autoscaling does; absent without it."""
    cost: CostStatus | None = None
    """What it costs; absent without spec.cost."""
    sleep: SleepStatus | None = None
    """What a sleep is to be woken to; absent without spec.sleep."""
    conditions: Conditions = ()
    """State by aspect."""

    @field_validator("conditions")
    @classmethod
    def _known(cls, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        """Without those of a newer operator, or of somebody's hand, whose words mean nothing here."""
        return tuple(each for each in conditions if each.type in _TYPES and each.reason in _REASONS)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """As an object has it as the API server returns it; an empty one where it is none of these types'."""
        try:
            return cls.model_validate(raw.get("status", {}))
        except ValidationError:
            return cls()

    @property
    def serves(self) -> bool:
        """Whether it tells that requests are answered. (Ready is also True of what rests, as was asked for.)"""
        ready = self.condition(ConditionType.READY)
        return ready is not None and ready.status == "True" and ready.reason not in RESTING

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, if there is one."""
        return next((condition for condition in self.conditions if condition.type == kind), None)
