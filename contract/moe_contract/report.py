"""What the directory tells the operator: a poll of at most about 100 KB for 58 layers x 256 experts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from moe_contract.applications import ModelArgs
from moe_contract.base import MOST_COUNTED, Count, Name, WireModel, Words
from moe_contract.model import ModelFacts, ModelProblem
from moe_contract.sizes import MOST_REPLICAS, MOST_SHARDS

ShardPhase = Literal["Starting", "Ready", "Lost"]

MOST_EPOCHS = 8
"""Tables whose figures are told: the one in force, and what came before it."""

Figure = Annotated[float, Field(ge=0, le=MOST_COUNTED, allow_inf_nan=False)]

INTERNAL_REPORT_PATH = "/internal/report"
"""Below the route prefix of the core application; needs ``Authorization: Bearer <internal key>``."""
INTERNAL_STATISTICS_PATH = "/internal/statistics"
"""Likewise: all that attention replicas gathered of the traffic, as the brain's ``encode_statistics`` packs it; 204
before they did. For whoever plans: 58 layers of 256 experts take up to 16 MB."""
PARTS = 10_000
"""Of which a whole has so many where shares are told."""


class ShardReport(WireModel):
    """One shard as the directory last saw it.

    Attributes:
        phase: Starting (never answered), Ready, or Lost (answered before, does not now).
        node: Ray's id of the node it really runs on.
        incarnation: changes with each process of this shard.
        pid: of that process.
        held: expert copies it holds, summed over layers.
        wanted: expert copies the target placement gives it.
        capacity: copies it may hold, spare buffers included.
        pairs: sent to it since the directory started, summed over layers.
        from_peers, from_checkpoint: bytes of experts that its process has got from other shards and read itself.
        refused: transfers whose bytes it did not take, since they were damaged or made no sense.
        damaged: copies of its own that it gave up, since their bytes had changed in its memory.
        problem: why it holds less than it should, in words, if so.
    """

    index: Annotated[int, Field(ge=0, lt=MOST_SHARDS)]
    phase: ShardPhase
    node: Name = ""
    incarnation: Name = ""
    pid: Count = 0
    held: Count = 0
    wanted: Count = 0
    capacity: Count = 0
    pairs: Count = 0
    from_peers: Count = 0
    from_checkpoint: Count = 0
    refused: Count = 0
    damaged: Count = 0
    problem: Words | None = None


class AttentionReport(WireModel):
    """One attention replica: ready to answer or why not, the epoch it routes by, its queue and the cache in use."""

    replica: Name
    ready: bool
    problem: Words | None = None
    epoch: Count
    running: Count
    waiting: Count
    kv_tokens: Count = 0
    pid: Count = 0


class Progress(WireModel):
    """How far the data plane is on its way to the target placement.

    Attributes:
        copied: expert copies of the target that are in place; total: all of them.
        settled: the target is in force everywhere and nothing old is left to be freed.
    """

    copied: Count
    total: Count
    settled: bool


class EpochFigures(WireModel):
    """What was measured of the rows that one routing table sent on; means over layers. A row is one token in one step,
    a pair a row and an expert chosen for it.

    Figures follow the traffic: what is minutes old weighs less than what is new. They are those that the brain's
    ``simulate`` foretells.

    Attributes:
        term, revision: of the target that the table was on the way to.
        epoch: of the table.
        rows: counted so far, each once for all layers.
        pairs: sent to shards so far, summed over layers.
        failovers: pairs that were asked for again at another copy.
        fan_out: shards visited per row and layer.
        node_fan_out: nodes visited per row and layer beside the one that the row starts on.
        shard_balance: mean / max over shards of pairs, in each layer.
        node_balance: the same over nodes, in proportion to the shards of each.
    """

    term: Count
    revision: Count
    epoch: Count
    rows: Count
    pairs: Count
    failovers: Count
    fan_out: Figure
    node_fan_out: Figure
    shard_balance: Figure
    node_balance: Figure


class Traffic(WireModel):
    """Counts since the directory started, and what follows the traffic: loads, and figures by routing table.

    Attributes:
        layer_rows: rows routed, counted once per MoE layer.
        visits: shards visited by them; visits / layer_rows is the fan-out.
        failovers: pairs that another copy answered than the one asked first.
        load: ``encoding.encode_counts`` of pairs per layer and expert; old ones count less.
        shares: of the pairs that the last table with traffic sent on, what each shard got, by index, in parts of
            10,000; old ones count less.
        epochs: of the tables that had traffic lately, by ascending epoch.
    """

    layer_rows: Count = 0
    visits: Count = 0
    failovers: Count = 0
    load: str | None = None
    shares: Annotated[tuple[Annotated[int, Field(ge=0, le=PARTS)], ...], Field(max_length=MOST_SHARDS)] = ()
    epochs: Annotated[tuple[EpochFigures, ...], Field(max_length=MOST_EPOCHS)] = ()


class CandidateReport(WireModel):
    """A model that was looked at beside the one that runs, loaded as ``args`` say.

    Attributes:
        model: what it is; model_problem: why it cannot be served. Both None while it is being inspected.
    """

    args: ModelArgs
    model: ModelFacts | None = None
    model_problem: ModelProblem | None = None


class DirectoryReport(WireModel):
    """The state of one deployment's data plane.

    Attributes:
        term, revision: of the target accepted last.
        refused: why the last ``user_config`` was not taken, if so; the old target stays.
        epoch: of the routing table in force.
        model: what the model is; model_problem: why it cannot be served. Both None while it is being inspected.
        candidate: the model that ``DirectoryConfig.candidate`` asked to look at, if any.
        placement: ``encoding.encode_placement`` of the routing table in force, by shard index, if it is complete.
    """

    term: Count
    revision: Count
    refused: Words | None = None
    epoch: Count
    model: ModelFacts | None = None
    model_problem: ModelProblem | None = None
    candidate: CandidateReport | None = None
    shards: Annotated[tuple[ShardReport, ...], Field(max_length=MOST_SHARDS)] = ()
    attention: Annotated[tuple[AttentionReport, ...], Field(max_length=MOST_REPLICAS)] = ()
    progress: Progress
    placement: str | None = None
    traffic: Traffic = Traffic()

    @property
    def figures(self) -> EpochFigures | None:
        """Those of the table in force; None before it had traffic."""
        return next((figures for figures in self.traffic.epochs if figures.epoch == self.epoch), None)

    @field_validator("shards")
    @classmethod
    def _each_once(cls, shards: tuple[ShardReport, ...]) -> tuple[ShardReport, ...]:
        if len({shard.index for shard in shards}) < len(shards):
            raise ValueError("a shard is there twice")
        return shards
