"""What the directory tells the operator: a poll of at most about 100 KB for 58 layers x 256 experts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from moe_contract.applications import ModelArgs, Wire
from moe_contract.base import CONTRACT, MOST_COUNTED, Count, Name, Since, WireModel, Words
from moe_contract.model import ModelFacts, ModelProblem
from moe_contract.sizes import MOST_APIS, MOST_REPLICAS, MOST_SHARDS

ShardPhase = Literal["Starting", "Ready", "Lost"]

MOST_EPOCHS = 8
"""Tables whose figures are told: the one in force, and what came before it."""

MOST_PACES = 12
"""So many sizes of step are told of: those in which most tokens came."""

Figure = Annotated[float, Field(ge=0, le=MOST_COUNTED, allow_inf_nan=False)]

INTERNAL_REPORT_PATH = "/internal/report"
"""Below the route prefix of the core application; needs ``Authorization: Bearer <internal key>``."""
CONTRACT_HEADER = "Moe-Contract"
"""Of a request for the report: the contract of who asks, who is told no field that came later. Without it: 0."""
INTERNAL_STATISTICS_PATH = "/internal/statistics"
"""Likewise: all that attention replicas gathered of the traffic, as the brain's ``encode_statistics`` packs it; 204
before they did. For whoever plans: 58 layers of 256 experts take up to 16 MB. A PUT, since contract 1, hands over those
of a former cluster of the same model: 204, or 400 and why not."""
STATISTICS_OF_HEADER = "Moe-Statistics-Of"
"""Of such a PUT: the name of the former cluster, ``NAME_OF_CLUSTER``. What is told again under a name that was told
before counts once, however much later; without it only the very same bytes do."""
NAME_OF_CLUSTER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}"
"""As a pattern for all of it."""
NOT_RECORDED = "traffic cannot be recorded"
"""Begins the problem of an attention replica that serves, and cannot write files of live traffic."""
NOT_ADAPTIVE = "all pairs are computed, though adaptive routing is asked for"
"""Begins the problem of an attention replica that serves, and may not leave any out."""
NOT_FP8 = "rows travel as the model's numbers, though FP8 is asked for"
"""Begins the problem of an attention replica that serves, and cannot pack them."""
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
        device: on which it computes, as torch calls its kind; empty until that is known.
        memory: bytes of that device in all, whoever else uses it; 0 where it is not told.
        busy_us: microseconds in which its process answered somebody, of ``served_us`` since it began to; both 0 where
            they are not told.
        host: address of that node, of one that listens; empty where it is not told.
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
    device: Annotated[Name, Since(1)] = ""
    memory: Annotated[Count, Since(1)] = 0
    busy_us: Annotated[Count, Since(1)] = 0
    served_us: Annotated[Count, Since(1)] = 0
    host: Annotated[Name, Since(1)] = ""


class AdaptiveReport(WireModel):
    """Adaptive routing in force in an attention replica.

    Attributes:
        pairs_saved: percent that it is asked to save, of all pairs.
        loss_increase, loss_low, loss_high: what that cost on the calibration's held-out text, in nats per token, with a
            95% interval.
        held_out_tokens: of that text.
    """

    pairs_saved: Figure
    loss_increase: Annotated[float, Field(allow_inf_nan=False)]
    loss_low: Annotated[float, Field(allow_inf_nan=False)]
    loss_high: Annotated[float, Field(allow_inf_nan=False)]
    held_out_tokens: Count


class AttentionReport(WireModel):
    """One attention replica: ready to answer or why not, the epoch it routes by, its queue, the cache in use, Ray's id
    and the address of the node that it runs on, adaptive routing where that is in force, and how rows travel."""

    replica: Name
    ready: bool
    problem: Words | None = None
    epoch: Count
    running: Count
    waiting: Count
    kv_tokens: Count = 0
    pid: Count = 0
    node: Annotated[Name, Since(1)] = ""
    host: Annotated[Name, Since(1)] = ""
    adaptive: Annotated[AdaptiveReport | None, Since(2)] = None
    wire: Annotated[Wire, Since(2)] = "Model"


class ApiReport(WireModel):
    """One api process that lives: whether it answers requests, and the address of the node that it runs on."""

    ready: bool
    host: Name


class Progress(WireModel):
    """How far the data plane is on its way to the target placement.

    Attributes:
        copied: expert copies of the target that are in place; total: all of them.
        settled: the target is in force everywhere and nothing old is left to be freed.
    """

    copied: Count
    total: Count
    settled: bool


class Pace(WireModel):
    """How long the tokens of answers followed one another in steps of equally many rows: what other tokens, prompts
    among them, a step computes says how long it takes.

    Attributes:
        rows: of such a step; above 31 those of up to 6% more are among them.
        tokens: that came right after another one of their answer.
        lower, median, upper: seconds between the two, the quartiles.
    """

    rows: Annotated[int, Field(ge=1, le=MOST_COUNTED)]
    tokens: Count
    lower: Figure
    median: Figure
    upper: Figure


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
        nodes: that the table's shards are on; 0 where that is not told.
        rows_per_step: of the attention replicas' steps, on average; 0 where that is not told.
        rows_per_second: of all replicas together, while there was traffic; 0 where that is not told.
        paces: how long tokens took, by the rows of a step, ascending.
        context: tokens that answers and their prompts had on average, of the tokens that ``paces`` counts; 0 where that
            is not told.
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
    nodes: Annotated[Count, Since(1)] = 0
    rows_per_step: Annotated[Figure, Since(1)] = 0.0
    rows_per_second: Annotated[Figure, Since(1)] = 0.0
    paces: Annotated[tuple[Pace, ...], Field(max_length=MOST_PACES), Since(1)] = ()
    context: Annotated[Figure, Since(1)] = 0.0


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
        pairs_skipped: that gates chose, and that adaptive routing left out.
        experts_chosen, experts_touched: distinct ones of a step and layer, summed over those with adaptive routing:
            that gates chose, and that were left of them.
    """

    layer_rows: Count = 0
    visits: Count = 0
    failovers: Count = 0
    load: str | None = None
    shares: Annotated[tuple[Annotated[int, Field(ge=0, le=PARTS)], ...], Field(max_length=MOST_SHARDS)] = ()
    epochs: Annotated[tuple[EpochFigures, ...], Field(max_length=MOST_EPOCHS)] = ()
    pairs_skipped: Annotated[Count, Since(2)] = 0
    experts_chosen: Annotated[Count, Since(2)] = 0
    experts_touched: Annotated[Count, Since(2)] = 0


class CandidateReport(WireModel):
    """A model that was looked at beside the one that runs, loaded as ``args`` say.

    Attributes:
        model: what it is; model_problem: why it cannot be served. Both None while it is being inspected.
    """

    args: ModelArgs
    model: ModelFacts | None = None
    model_problem: ModelProblem | None = None

    def known_to(self, contract: int) -> CandidateReport:
        """See ``ModelProblem.known_to``."""
        return self.model_copy(update={"model_problem": self.model_problem and self.model_problem.known_to(contract)})


class Fetched(WireModel):
    """How much of a model's files there is where they are being fetched, in bytes, of all that is to be there."""

    done: Count
    total: Count


class DirectoryReport(WireModel):
    """The state of one deployment's data plane.

    Attributes:
        term, revision: of the target accepted last.
        refused: why the last ``user_config`` was not taken, if so; the old target stays.
        epoch: of the routing table in force.
        model: what the model is; model_problem: why it cannot be served. Both None while it is being inspected.
        candidate: the model that ``DirectoryConfig.candidate`` asked to look at, if any.
        placement: ``encoding.encode_placement`` of the routing table in force, by shard index, if it is complete.
        contract: of the release that the data plane runs: which fields of its configuration it knows.
        fetched: of a model that is being fetched: to the directory's node before it can be inspected, then by shards
            and attention replicas, summed over their nodes.
        apis: api processes; none where the data plane does not tell of them.
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
    contract: Annotated[Count, Since(1)] = 0
    fetched: Annotated[Fetched | None, Since(1)] = None
    apis: Annotated[tuple[ApiReport, ...], Field(max_length=2 * MOST_APIS), Since(2)] = ()

    def told(self, contract: int = CONTRACT) -> dict[str, Any]:
        """As JSON data for a process of ``contract``, with reasons that it knows."""
        report = self.model_copy(
            update={
                "model_problem": self.model_problem and self.model_problem.known_to(contract),
                "candidate": self.candidate and self.candidate.known_to(contract),
            }
        )
        return super(DirectoryReport, report).told(contract)

    def is_emptied(self, shard: ShardReport) -> bool:
        """Whether a shard shall hold nothing, and does: of one that answers the directory knows; of one that does not,
        what it held must be elsewhere."""
        done = self.progress.copied == self.progress.total
        return shard.wanted == 0 and shard.held == 0 and (shard.phase == "Ready" or done)

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
