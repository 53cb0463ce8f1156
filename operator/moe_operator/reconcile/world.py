"""What one reconcile observed: everything that the intent and the status may depend on, the time included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from moe_contract.applications import DirectoryConfig, ModelArgs, shard_application_name
from moe_contract.model import ModelFacts
from moe_contract.report import CandidateReport, DirectoryReport
from moe_contract.sizes import MOST_SHARDS, MOST_SLOTS_READ
from moe_operator.api import MoEDeployment
from moe_operator.finding import Finding
from moe_operator.kube.secrets import KeyHashes
from moe_operator.placements.book import Book
from moe_operator.runtimes.port import Application, RuntimeState, Told, core_name
from moe_placement import InvalidPlacementError, Placement
from moe_placement.encoding import decode_placement

_NOTHING_TOLD = Told(model=None)


@dataclass(frozen=True)
class World:
    """One MoEDeployment and what there is of it.

    Attributes:
        runtime: what it runs on tells, its directory included.
        unreachable_seconds: for how long the runtime cannot be read already, as far as this process knows.
        failed_seconds: by name of an application that the runtime has given up: for how long, likewise.
        report_failing_seconds: for how long a report is missed although there should be one, likewise.
        shards_missing_seconds: for how long some shards have answered and others not yet, likewise.
        keys: None if they could not be read; ``key_problem`` says why, or why the runtime was not asked.
        term: of this leadership, for the directory.
        book: its ExpertPlacements.
    """

    moe: MoEDeployment
    now: datetime
    runtime: RuntimeState = field(default_factory=RuntimeState)
    unreachable_seconds: float = 0.0
    failed_seconds: Mapping[str, float] = field(default_factory=dict)
    report_failing_seconds: float = 0.0
    shards_missing_seconds: float = 0.0
    keys: KeyHashes | None = None
    key_problem: Finding | None = None
    term: int = 1
    book: Book = field(default_factory=Book)

    @cached_property
    def core_name(self) -> str:
        return core_name(self.moe)

    @cached_property
    def model(self) -> ModelArgs:
        """The arguments by which every process shall load the model that the spec names."""
        return self.moe.model_args

    @property
    def running_model(self) -> ModelArgs:
        """The arguments by which the processes that run load their model; before the first, those of the spec."""
        return self.told(self.core_name).model or self.model

    @property
    def report(self) -> DirectoryReport | None:
        """What the directory reports; None if it does not (yet)."""
        return self.runtime.report

    @property
    def contract(self) -> int:
        """The contract of the processes that run, as the directory tells it. While it does not, it is that of what they
        were told last, so that they are told the same; before they were told anything, that of the first release."""
        if self.report is not None:
            return self.report.contract
        return max((told.contract for told in self.runtime.told.values()), default=0)

    @property
    def candidate(self) -> CandidateReport | None:
        """What the directory that runs found out about the model that the spec names, if it was asked to look."""
        found = self.report.candidate if self.report else None
        return found if found and found.args == self.model else None

    @property
    def core(self) -> Application | None:
        """The core application, unless there is none or it is on its way out."""
        return self.runtime.standing(self.core_name)

    @cached_property
    def shard_applications(self) -> tuple[Application, ...]:
        """The applications of shards, without those on their way out."""
        found = self.runtime.applications.items()
        return tuple(each for name, each in found if name != self.core_name and not each.leaving)

    def told(self, application: str) -> Told:
        """What an application was told last; nothing before the first."""
        return self.runtime.told.get(application, _NOTHING_TOLD)

    @property
    def target(self) -> DirectoryConfig:
        """The placement that the directory was last told to reach; an empty one before the first, or if what it was
        told ``is_unreadable``."""
        return self.told(self.core_name).directory or DirectoryConfig()

    @property
    def is_unreadable(self) -> bool:
        """Whether the directory was told something of which it is not known what."""
        return self.told(self.core_name).directory is None

    def shards_there(self, placement: Placement | None) -> int:
        """How many shards there are at most, ``0 .. n - 1``: those of the placement wanted, else by their names."""
        if placement is not None:
            return placement.shards
        there = {each.name for each in self.shard_applications}
        return max((index + 1 for index in range(MOST_SHARDS) if there and self.shard_name(index) in there), default=0)

    @cached_property
    def target_placement(self) -> Placement | None:
        """The placement of ``target``, if there is one that can be read."""
        return _decoded(self.target.placement)

    @cached_property
    def actual_placement(self) -> Placement | None:
        """The placement in force, if the directory reports one that can be read."""
        return _decoded(self.report.placement) if self.report else None

    @property
    def facts(self) -> ModelFacts | None:
        """What the model is, if the directory knows."""
        return self.report.model if self.report else None

    @property
    def settled(self) -> bool:
        """Whether the data plane is where it was last told to be."""
        return bool(self.report and self.report.progress.settled and self.report.revision == self.target.revision)

    @property
    def moved_shards(self) -> frozenset[int]:
        """Shards that the runtime moves off their nodes."""
        moved = {application.name for application in self.shard_applications if application.moved}
        return frozenset(ref.index for ref in self.target.shards if self.shard_name(ref.index) in moved)

    def nodes(self, shards: int) -> tuple[str, ...]:
        """The nodes of shards ``0 .. shards - 1``, as their processes tell; ``""`` where one is not known (any
        more)."""
        told = {shard.index: shard.node for shard in self.report.shards} if self.report else {}
        return tuple(told.get(index, "") for index in range(shards))

    def shard_name(self, index: int) -> str:
        """Name of the application of shard ``index``."""
        return shard_application_name(self.core_name, index)


def _decoded(text: str | None) -> Placement | None:
    """Unpack a placement. Ray, and whoever may write there, say what it is, so its size is bounded before."""
    try:
        placement = decode_placement(text, MOST_SLOTS_READ) if text else None
    except InvalidPlacementError:
        return None
    return placement if placement and placement.shards <= MOST_SHARDS else None
