"""A simulated data plane for tables: what a runtime and the directory would say after each step of the operator's."""

import dataclasses
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from moe_facts import FACTS
from placement_objects import content, stored

from moe_contract.applications import ATTENTION, EXPERTS, DirectoryConfig, Wire, shard_application_name
from moe_contract.model import ModelFacts, ModelProblem
from moe_contract.report import (
    AdaptiveReport,
    AttentionReport,
    CandidateReport,
    DirectoryReport,
    Progress,
    ShardPhase,
    ShardReport,
    Traffic,
)
from moe_operator.api import MoEDeployment, MoEDeploymentStatus, Reason
from moe_operator.finding import Finding
from moe_operator.kube.secrets import KeyHashes
from moe_operator.placements.book import Book
from moe_operator.placements.errors import NotExpressibleError
from moe_operator.reconcile.diagnosis import diagnose
from moe_operator.reconcile.intent import Intent, Step, next_intent
from moe_operator.reconcile.status import next_status
from moe_operator.reconcile.world import World
from moe_operator.runtimes.port import Application, ApplicationPhase, RuntimeState, Told, core_name
from moe_placement.encoding import decode_placement

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ANSWERS = Finding(Reason.REACHABLE, "it answers")
_OF_THE_RUNTIME = {each.name for each in dataclasses.fields(RuntimeState)}


def deployment(generation: int = 1, status: MoEDeploymentStatus | None = None, **experts: Any) -> MoEDeployment:
    """A MoEDeployment; keyword arguments are fields of spec.experts, or ``spec`` to replace other parts."""
    more = experts.pop("spec", {})
    spec = {
        "model": {"source": {"path": "models/tiny"}},
        "experts": {"shards": 2, **experts},
        "runtime": {"rayCluster": {"dashboardURL": "http://ray:8265", "serveURL": "http://ray:8000"}},
        **more,
    }
    moe = MoEDeployment.parse(
        {
            "apiVersion": "moe-operator.io/v1alpha1",
            "kind": "MoEDeployment",
            "metadata": {"name": "tiny", "namespace": "team", "uid": "u-1", "generation": generation},
            "spec": spec,
        }
    )
    return moe.model_copy(update={"status": status}) if status else moe


def told_by(intent: Intent) -> dict[str, Told]:
    """What the applications are told, by name."""
    desired = intent.desired
    if desired is None:
        return {}
    attention, experts = (desired.actor_options.get(name, {}) for name in (ATTENTION, EXPERTS))
    told = {desired.core: Told(desired.model, desired.api.served_name, desired.directory, actor_options=attention)}
    for ref in desired.directory.shards:
        slots = desired.slots.get(ref.index, desired.directory.slots_per_shard)
        told[shard_application_name(desired.core, ref.index)] = Told(
            desired.model, slots_per_shard=slots, actor_options=desired.shard_options.get(ref.index, experts)
        )
    return {name: each for name, each in told.items() if name not in intent.without}


@dataclass
class DataPlane:
    """Runtime and directory as a pass finds them. ``run`` carries an intent out; the rest is set by the test.

    Attributes:
        told: what the applications were told last, those included that somebody else removed.
        recorded: whether what the directory was told last has an ExpertPlacement that the operator made.
        nodes: one character for the node of each shard, as far as it is known.
        more: fields of the runtime's state, or of the world, in place of what they would be.
    """

    moe: MoEDeployment
    applications: dict[str, Application] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    facts: ModelFacts | None = FACTS
    problem: ModelProblem | None = None
    candidate: ModelFacts | ModelProblem | None = FACTS
    answers: bool = True
    ready: bool = True
    settled: bool = True
    lost: frozenset[int] = frozenset()
    empty: frozenset[int] = frozenset()
    starting: frozenset[int] = frozenset()
    nodes: str = ""
    recorded: bool = False
    refused: str | None = None
    attention_problem: str | None = None
    adaptive: AdaptiveReport | None = None
    wire: Wire = "Model"
    placement: str | None = None
    traffic: Traffic = field(default_factory=Traffic)
    now: datetime = NOW
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return core_name(self.moe)

    @property
    def shard_names(self) -> list[str]:
        return [name for name in self.applications if name != self.name]

    def target(self) -> DirectoryConfig:
        told = self.told.get(self.name)
        return (told and self.name in self.applications and told.directory) or DirectoryConfig()

    def phase(self, index: int) -> ShardPhase:
        return "Lost" if index in self.lost else "Starting" if index in self.starting else "Ready"

    def look_at_candidate(self) -> CandidateReport | None:
        args, found = self.target().candidate, self.candidate
        if args is None or found is None:
            return CandidateReport(args=args) if args else None
        field = "model" if isinstance(found, ModelFacts) else "model_problem"
        return CandidateReport(args=args, **{field: found})

    def report(self) -> DirectoryReport | None:
        if not self.answers or self.name not in self.applications:
            return None
        target = self.target()
        if self.settled:
            self.placement = target.placement
        wanted = decode_placement(target.placement) if target.placement else None
        held = decode_placement(self.placement) if self.placement else None
        return DirectoryReport(
            term=target.term,
            revision=target.revision,
            epoch=target.revision,
            refused=self.refused,
            model=self.facts,
            model_problem=self.problem,
            candidate=self.look_at_candidate(),
            shards=tuple(
                ShardReport(
                    index=ref.index,
                    phase=self.phase(ref.index),
                    node=self.nodes[ref.index : ref.index + 1],
                    held=len(held.holdings(ref.index))
                    if held and ref.index < held.shards and ref.index not in self.empty
                    else 0,
                    wanted=len(wanted.holdings(ref.index)) if wanted else 0,
                )
                for ref in target.shards
            ),
            attention=(
                AttentionReport(
                    replica="a",
                    ready=self.ready,
                    problem=self.attention_problem,
                    epoch=0,
                    running=0,
                    waiting=0,
                    adaptive=self.adaptive,
                    wire=self.wire,
                ),
            ),
            progress=Progress(copied=0, total=0, settled=self.settled),
            placement=self.placement,
            traffic=self.traffic,
        )

    def world(self, **more: Any) -> World:
        """As it is seen, but for ``more``; of a runtime that cannot be read nothing is known but what the directory
        says."""
        more = {**self.more, **more}
        state = RuntimeState(
            answers=ANSWERS,
            applications=dict(self.applications),
            told=dict(self.told),
            nothing_is_left=not self.applications,
        )
        if more.get("unreachable") or more.get("unasked"):
            state = RuntimeState()
        state = replace(state, report=self.report())
        state = replace(state, **{name: value for name, value in more.items() if name in _OF_THE_RUNTIME})
        world = World(self.moe, self.now, state, keys=KeyHashes("i" * 64), key_problem=state.unasked, book=self._book())
        return replace(world, **{name: value for name, value in more.items() if name not in _OF_THE_RUNTIME})

    def _book(self) -> Book:
        target = self.target()
        if not self.recorded or target.placement is None or self.facts is None:
            return Book()
        try:
            told = content(decode_placement(target.placement), target.revision, target.revision - 1, self.facts.digest)
        except NotExpressibleError:
            return Book()
        return Book.of([stored(told, {"origin": "Operator", "phase": "Active"}, decision="Approved")])

    def decide(self) -> Intent:
        return next_intent(self.world())

    def run(self) -> Intent:
        """Decide and submit; every application runs at once, those removed are gone at once."""
        intent = self.decide()
        if intent.step is not Step.NOTHING:
            self.told = told_by(intent)
            route = intent.desired.route_prefix if intent.desired else None
            self.applications = {
                name: Application(name, ApplicationPhase.RUNNING, route_prefix=route if name == self.name else None)
                for name in self.told
            }
        return intent

    def set_phase(self, name: str, phase: ApplicationPhase, problem: Finding | None = None) -> None:
        """How an application is from now on."""
        self.applications[name] = replace(self.applications[name], phase=phase, problem=problem)

    def change(self, generation: int | None = None, **experts: Any) -> None:
        """The user edits spec.experts (or, by ``spec``, other parts)."""
        self.moe = deployment((generation or self.moe.metadata.generation) + 1, self.moe.status, **experts)

    def tell(self, **more: Any) -> MoEDeploymentStatus:
        """Decide, and keep the status as the next one's past."""
        seen = self.world(**more)
        intent = next_intent(seen)
        status = next_status(seen, intent, diagnose(seen, intent))
        self.moe = self.moe.model_copy(update={"status": status})
        return status

    def settle(self, steps: int = 6) -> None:
        for _ in range(steps):
            self.run()
            self.tell()

    def forget(self) -> None:
        """The runtime has lost all, and so has the operator that knew it."""
        self.applications, self.told = {}, {}
