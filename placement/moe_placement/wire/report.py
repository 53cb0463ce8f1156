"""What the directory tells the operator: a poll of at most about 100 KB for 58 layers x 256 experts."""

from __future__ import annotations

from typing import Literal

from moe_placement.wire.applications import ModelArgs
from moe_placement.wire.base import WireModel
from moe_placement.wire.model import ModelFacts, ModelProblem

ShardPhase = Literal["Starting", "Ready", "Lost"]

INTERNAL_REPORT_PATH = "/internal/report"
"""Below the route prefix of the core application; needs ``Authorization: Bearer <internal key>``."""


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
        tokens: token-expert pairs it was sent since the directory started.
        problem: why it holds less than it should, in words, if so.
    """

    index: int
    phase: ShardPhase
    node: str = ""
    incarnation: str = ""
    pid: int = 0
    held: int = 0
    wanted: int = 0
    capacity: int = 0
    tokens: int = 0
    problem: str | None = None


class AttentionReport(WireModel):
    """One attention replica: ready to answer or why not, the epoch it routes by, its queue and the cache in use."""

    replica: str
    ready: bool
    problem: str | None = None
    epoch: int
    running: int
    waiting: int
    kv_tokens: int = 0
    pid: int = 0


class Progress(WireModel):
    """How far the data plane is on its way to the target placement.

    Attributes:
        copied: expert copies of the target that are in place; total: all of them.
        settled: the target is in force everywhere and nothing old is left to be freed.
    """

    copied: int
    total: int
    settled: bool


class Traffic(WireModel):
    """Counts since the directory started.

    Attributes:
        tokens: token rows routed, counted once per MoE layer.
        visits: shards visited by them; visits / tokens is the fan-out.
        failovers: token-expert pairs that another copy answered than the one asked first.
        load: ``codec.encode_counts`` of token-expert pairs per layer and expert.
    """

    tokens: int = 0
    visits: int = 0
    failovers: int = 0
    load: str | None = None


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
        placement: ``codec.encode_placement`` of the routing table in force, by shard index, if it is complete.
    """

    term: int
    revision: int
    refused: str | None = None
    epoch: int
    model: ModelFacts | None = None
    model_problem: ModelProblem | None = None
    candidate: CandidateReport | None = None
    shards: tuple[ShardReport, ...] = ()
    attention: tuple[AttentionReport, ...] = ()
    progress: Progress
    placement: str | None = None
    traffic: Traffic = Traffic()
