"""A simulated data plane for tables: what Serve and the directory would say after each step of a plan."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from bench import Bench
from fake_ray import FakeRay
from moe_facts import FACTS

from moe_contract.applications import DirectoryConfig
from moe_contract.model import ModelFacts, ModelProblem
from moe_contract.report import AttentionReport, CandidateReport, DirectoryReport, Progress, ShardReport, Traffic
from moe_contract.serve.merge import Change
from moe_contract.serve.state import Application, ServeState
from moe_operator.api import MoEDeployment, MoEDeploymentStatus
from moe_operator.reconcile.diagnosis import diagnose
from moe_operator.reconcile.plan import Plan, next_plan
from moe_operator.reconcile.status import next_status
from moe_operator.reconcile.world import KeyHashes, World, core_name
from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.ray_cluster.serve_rest import cluster
from moe_placement.encoding import decode_placement

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


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


@dataclass
class DataPlane:
    """Serve and directory as plans find them. ``run`` submits a plan; the rest is set by the test."""

    moe: MoEDeployment
    applications: dict[str, Application] = field(default_factory=dict)
    facts: ModelFacts | None = FACTS
    problem: ModelProblem | None = None
    candidate: ModelFacts | ModelProblem | None = FACTS
    answers: bool = True
    ready: bool = True
    settled: bool = True
    lost: frozenset[int] = frozenset()
    empty: frozenset[int] = frozenset()
    refused: str | None = None
    placement: str | None = None
    traffic: Traffic = field(default_factory=Traffic)
    remembered: Change | None = None
    now: datetime = NOW
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return core_name(self.moe)

    def target(self) -> DirectoryConfig:
        core = self.applications.get(self.name)
        if core is None or core.config is None:
            return DirectoryConfig()
        return DirectoryConfig.model_validate(core.config["deployments"][2]["user_config"])

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
                    phase="Lost" if ref.index in self.lost else "Ready",
                    held=len(held.holdings(ref.index))
                    if held and ref.index < held.shards and ref.index not in self.empty
                    else 0,
                    wanted=len(wanted.holdings(ref.index)) if wanted else 0,
                )
                for ref in target.shards
            ),
            attention=(AttentionReport(replica="a", ready=self.ready, epoch=0, running=0, waiting=0),),
            progress=Progress(copied=0, total=0, settled=self.settled),
            placement=self.placement,
            traffic=self.traffic,
        )

    def world(self) -> World:
        world = World(
            moe=self.moe,
            now=self.now,
            serve=ServeState("controller", {}, self.applications),
            keys=KeyHashes("i" * 64),
            report=self.report(),
            remembered=self.remembered,
        )
        return replace(world, **self.more)

    def plan(self) -> Plan:
        return next_plan(self.world())

    def run(self) -> Plan:
        """Plan and submit; every application runs at once, those removed are gone at once."""
        plan = self.plan()
        if plan.applications is not None:
            self.remembered = Change(self.name, plan.applications)
            self.applications = {
                config["name"]: Application(
                    config["name"], "RUNNING", config=config, route_prefix=config["route_prefix"]
                )
                for config in plan.applications
            }
        return plan

    def change(self, generation: int | None = None, **experts: Any) -> None:
        """The user edits spec.experts (or, by ``spec``, other parts)."""
        self.moe = deployment((generation or self.moe.metadata.generation) + 1, self.moe.status, **experts)

    def tell(self, **world: Any) -> MoEDeploymentStatus:
        """Plan, and keep the status as the next one's past."""
        seen = replace(self.world(), **world)
        plan = next_plan(seen)
        status = next_status(seen, plan, diagnose(seen, plan, None))
        self.moe = self.moe.model_copy(update={"status": status})
        return status

    def settle(self, steps: int = 6) -> None:
        for _ in range(steps):
            self.run()
            self.tell()


@pytest.fixture
def plane() -> DataPlane:
    return DataPlane(deployment())


@pytest.fixture
def make_plane():
    def make(**experts: Any) -> DataPlane:
        return DataPlane(deployment(**experts))

    return make


@pytest.fixture
async def bench(http: HttpClient, fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    for name in ("FRESH_SECONDS", "ABSENT_SECONDS", "GATHER_SECONDS"):
        monkeypatch.setattr(cluster, name, 0.0)
    yield Bench(http, fake_ray)
