"""An ExpertPlacement: one placement of the experts of a MoEDeployment, who decided on it and what became of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from moe_contract.report import MOST_PACES
from moe_contract.sizes import MOST_EXPERTS, MOST_SHARDS, MOST_SLOTS
from moe_operator.api.base import ApiModel, StatusModel
from moe_operator.api.deployment import MAX_NAME, Identity
from moe_operator.api.phase import Phase
from moe_operator.api.reasons import PlacementConditionType
from moe_operator.api.rules import Rule, validations
from moe_operator.api.status import MAX_MESSAGE, Condition, Conditions

MAX_REVISION = 2**31 - 1
MAX_STEP = 1000
"""From one revision to the next: numbers must not run out because somebody skips most of them."""
MAX_LAYERS = 256
MAX_LAYER_TEXT = 32768
"""Characters of one layer: 6,500 slots of a model with 1,000 experts. The API server takes no rule that would cost too
much for so many layers of so many characters."""
LAYER_PATTERN = "^(-|[0-9]{1,5})( (-|[0-9]{1,5}))*$"

NAME_RULE = Rule(
    rule=(
        r"self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?-r[1-9][0-9]{0,9}$') "
        "&& self.metadata.name.startsWith(self.spec.deploymentRef.name + '-r') "
        "&& int(self.metadata.name.substring(self.metadata.name.lastIndexOf('-r') + 2)) == self.spec.content.revision "
        "&& self.metadata.name.lastIndexOf('-r') == self.spec.deploymentRef.name.size()"
    ),
    message="metadata.name is '%s', but it is of revision %s of the MoEDeployment '%s': name it '%s-r%s'",
    values=(
        "self.metadata.name",
        "self.spec.content.revision",
        "self.spec.deploymentRef.name",
        "self.spec.deploymentRef.name",
        "self.spec.content.revision",
    ),
    field_path=".metadata",
)

_ENDS = ", ".join(f"'{phase}'" for phase in Phase if phase.is_end)

TOO_LATE_RULE = Rule(
    # Also judged of writes of the status, for which the decision is as it was.
    rule=(
        "self.spec.decision == oldSelf.spec.decision || self.spec.decision != 'Approved' "
        f"|| !has(self.status) || !has(self.status.phase) || !(self.status.phase in [{_ENDS}])"
    ),
    message=(
        "spec.decision cannot become Approved any more: '%s' is %s, its conditions say why; approve a later one, or "
        "write one from what runs"
    ),
    values=("self.metadata.name", "self.status.phase"),
    field_path=".spec.decision",
    reason="FieldValueForbidden",
)


class Decision(StrEnum):
    """What somebody decided about a placement."""

    PENDING = "Pending"
    APPROVED = "Approved"
    REJECTED = "Rejected"


class Origin(StrEnum):
    """Who wrote a placement."""

    OPERATOR = "Operator"
    PERSON = "Person"


class DeploymentRef(ApiModel):
    """A MoEDeployment in the same namespace."""

    name: str = Field(min_length=1, max_length=MAX_NAME, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    """Name of the MoEDeployment."""


class PlacementContent(ApiModel):
    """Which expert is in which slot of which shard, and what it was written for. Immutable."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            Rule(
                rule=f"self.revision > self.baseRevision && self.revision <= self.baseRevision + {MAX_STEP}",
                message=(
                    f"spec.content.revision is %s and its baseRevision %s: take one above it, by at most {MAX_STEP}, "
                    "that no other ExpertPlacement of the MoEDeployment has"
                ),
                values=("self.revision", "self.baseRevision"),
                field_path=".revision",
            ),
            Rule(
                rule="self.shards * self.slotsPerShard >= self.experts",
                message=(
                    "spec.content: %s shards x %s slotsPerShard hold fewer than %s experts: every expert of a layer "
                    "needs a slot; use more shards or more slotsPerShard"
                ),
                values=("self.shards", "self.slotsPerShard", "self.experts"),
                field_path=".slotsPerShard",
            ),
            Rule(
                rule=f"self.layers.size() * self.shards * self.slotsPerShard <= {MOST_SLOTS}",
                message=(
                    "spec.content: %s layers x %s shards x %s slotsPerShard are more than the "
                    f"{MOST_SLOTS} slots that this release places: use fewer slots"
                ),
                values=("self.layers.size()", "self.shards", "self.slotsPerShard"),
                field_path=".layers",
            ),
            Rule(
                rule="self.layers.all(layer, layer.split(' ').size() == self.shards * self.slotsPerShard)",
                message=(
                    "spec.content.layers: each must have %s x %s entries, one for each slot of each shard (shards x "
                    "slotsPerShard), separated by one space; write - for an empty slot"
                ),
                values=("self.shards", "self.slotsPerShard"),
                field_path=".layers",
            ),
        )
    )

    revision: int = Field(ge=1, le=MAX_REVISION)
    """Number of the placement, above baseRevision and of no other ExpertPlacement of the MoEDeployment."""
    base_revision: int = Field(ge=0, le=MAX_REVISION)
    """Revision that it was written from, status.placement.revision of the MoEDeployment: while another one is in \
force it is not migrated to."""
    model_digest: str = Field(pattern="^sha256:[0-9a-f]{1,64}$")
    """status.model.digest of the MoEDeployment: experts of another model have nothing to do with these."""
    experts: int = Field(ge=1, le=MOST_EXPERTS)
    """Experts per MoE layer; their ids are 0 to experts - 1."""
    shards: int = Field(ge=1, le=MOST_SHARDS)
    """Expert shards, as many as the MoEDeployment runs (status.shards)."""
    slots_per_shard: int = Field(ge=1, le=MOST_SLOTS)
    """Slots of each shard per layer, status.slotsPerShard of the MoEDeployment."""
    layers: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=MAX_LAYER_TEXT, pattern=LAYER_PATTERN)], ...],
        Field(min_length=1, max_length=MAX_LAYERS),
    ]
    """One line for each MoE layer, in the model's order: the expert in each slot, first all slots of shard 0, then \
those of shard 1 and so on; - is an empty slot. For 16 experts on 2 shards of 9 slots e.g. \
`0 1 2 3 4 5 6 7 - 8 9 10 11 12 13 14 15 -`."""


class ExpertPlacementSpec(ApiModel):
    """A placement and the decision on it."""

    deployment_ref: DeploymentRef = Field(
        json_schema_extra=validations(
            Rule(
                rule="self == oldSelf",
                message=(
                    "spec.deploymentRef is immutable: it is '%s' and cannot become '%s'; write another ExpertPlacement"
                ),
                values=("oldSelf.name", "self.name"),
                reason="FieldValueForbidden",
            )
        )
    )
    """Of whose experts it is. Immutable."""
    decision: Decision = Field(
        default=Decision.PENDING,
        json_schema_extra=validations(
            Rule(
                rule="oldSelf.hasValue() || self == 'Pending'",
                message=(
                    "spec.decision is '%s': an ExpertPlacement is created Pending, and decided on afterwards, e.g. by "
                    "kubectl patch xp NAME --type=merge -p "
                    '\'{"metadata":{"uid":"UID"},"spec":{"decision":"Approved"}}\''
                ),
                values=("self",),
                reason="FieldValueForbidden",
                on_creation=True,
            ),
            Rule(
                rule="self == oldSelf || oldSelf == 'Pending'",
                message="spec.decision is '%s' and cannot become '%s': write another ExpertPlacement",
                values=("oldSelf", "self"),
                reason="FieldValueForbidden",
            ),
        ),
    )
    """Approved: migrate to it; Rejected: never. Decided once."""
    content: PlacementContent = Field(
        json_schema_extra=validations(
            Rule(
                rule="self == oldSelf",
                message=(
                    "spec.content is immutable: its revision %s stays as it is; write another ExpertPlacement, with a "
                    "revision of its own"
                ),
                values=("oldSelf.revision",),
                reason="FieldValueForbidden",
            )
        )
    )
    """Which expert is in which slot of which shard, and what it was written for. Immutable."""


class Price(StatusModel):
    """What going there from its base costs."""

    moves: int
    """Copies of experts that shards must load."""
    bytes: int
    """Their size together."""
    seconds: str | None = None
    """For how long the busiest link carries them; of a proposal."""


class TokenLatency(StatusModel):
    """How long one token of an answer came after another, in steps of equally many rows."""

    rows: int
    """Of such a step, all its requests and prompts together; above 31 those of up to 6% more are among them."""
    tokens: int
    """Counted."""
    lower_microseconds: int
    """A quarter of them came within this time."""
    median_microseconds: int
    """Half of them."""
    upper_microseconds: int
    """Three quarters of them."""


class Figures(StatusModel):
    """What requests meet, per token and layer: as foretold of a proposal, or as counted."""

    balance: str
    """Mean load of a shard divided by that of the busiest: 1 is perfect."""
    fan_out: str
    """Shards visited."""
    node_fan_out: str | None = None
    """Nodes visited beside the one where attention runs; 0 where all shards are on one. Absent of what was foretold \
without knowing where attention runs."""
    beside_attention: bool | None = None
    """Whether nodeFanOut is of nodes beside the one where attention runs. Absent of what release 0.1.0 wrote, which \
told another figure there."""
    rows: int | None = None
    """Tokens that were counted; absent of predicted."""
    rows_per_second: str | None = None
    """Tokens that came a second, as counted, while any came."""
    latency: Annotated[tuple[TokenLatency, ...], Field(max_length=MOST_PACES)] | None = None
    """How long tokens took, as counted, by the rows of a step."""
    context: str | None = None
    """Tokens that answers and their prompts had on average, of the tokens that latency counts."""


class MigrationProgress(StatusModel):
    """How far the migration is."""

    copied: int
    """Copies of the placement that are in place."""
    total: int
    """Copies of the placement."""
    epoch: int
    """Number of the routing table in force."""


class ExpertPlacementStatus(StatusModel):
    """What the operator saw of it."""

    observed_generation: int | None = None
    """Generation of the spec that this status describes."""
    phase: Phase | None = None
    """Where it is on its way."""
    origin: Origin | None = None
    """Who wrote it. What a person wrote is never pruned."""
    approved_by: Origin | None = None
    """Who approved a proposal: what a person approved is rolled back only with spec.rebalance.rollback: Always."""
    why: Annotated[str, Field(max_length=MAX_MESSAGE)] | None = None
    """Of a proposal: why it was made, in the words and figures of the look at the traffic that found it."""
    price: Price | None = None
    """What going there from its base costs."""
    predicted: Figures | None = None
    """Of a proposal: what was foretold of it, from the traffic of that time."""
    before: Figures | None = None
    """What its base met: of a proposal, with the newest traffic when it was made; else as counted before it began."""
    measured: Figures | None = None
    """What was counted of it when it was verified."""
    progress: MigrationProgress | None = None
    """How far the migration is, or was when it ended."""
    balance: str | None = None
    """Mean load of a shard divided by that of the busiest, as counted last while it was in force."""
    fan_out: str | None = None
    """Shards that a token visited per layer, averaged, as counted last while it was in force."""
    conditions: Conditions = ()
    """State by aspect."""

    def condition(self, kind: PlacementConditionType) -> Condition | None:
        """The condition of this type, if there is one."""
        return next((condition for condition in self.conditions if condition.type == kind), None)


class ExpertPlacement(Identity):
    """One placement of a MoEDeployment's experts on its shards: proposed, decided on, migrated to while requests are \
answered, and replaced by a later one."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=validations(NAME_RULE, TOO_LATE_RULE))

    spec: ExpertPlacementSpec
    """The placement and the decision on it."""
    status: ExpertPlacementStatus = ExpertPlacementStatus()
    """What the operator saw of it."""

    @property
    def revision(self) -> int:
        """Number of the placement."""
        return self.spec.content.revision
