"""A bench whose deployment is rebalanced: what the worker process finds and what the data plane counts is injected.

Objects, passes and times are real.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench import Bench
from epochs import epoch_figures
from fake_ray import FakeDirectory, JsonObject, told_directory
from moe_facts import FACTS
from written_placements import OTHER

from moe_contract.report import DirectoryReport, Pace
from moe_operator.api import RebalanceReason
from moe_operator.placements.content import content_of
from moe_operator.rebalance.proposal import Predicted, Price, Proposal, Question
from moe_placement import Placement

EVERY = {"interval": "10s", "cooldown": "10s"}
SAME = Placement.of(OTHER.slots[:, ::-1], OTHER.shard_slots, FACTS.experts)


@dataclass
class Brain:
    """Answers in place of the worker process.

    Attributes:
        finds: what the next looks find; the last one stays.
        asked: with what they were asked.
    """

    finds: list[Callable[[Question], Proposal]] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)

    async def run(self, owner: str, bounds: Any, job: Any, statistics: bytearray, question: Question) -> Proposal:
        self.asked.append(question)
        return (self.finds.pop(0) if len(self.finds) > 1 else self.finds[0])(question)


def nothing(question: Question) -> Proposal:
    return Proposal(False, RebalanceReason.GAIN_BELOW_PRICE, "gain 1.2% over 1h does not pay for 14 moves")


def better(of: Placement = OTHER, balance: float = 0.95) -> Callable[[Question], Proposal]:
    """A look that finds a placement."""

    def find(question: Question) -> Proposal:
        return Proposal(
            True, RebalanceReason.GAIN_PAYS, "gain 12% over 1h pays for 16 moves",
            content=content_of(of, question.revision, question.ground.revision, question.ground.digest),
            before=Predicted(0.8, 1.6, 0.0), after=Predicted(balance, 1.2, 0.0),
            met=Predicted(0.8004, 1.5004, 0.0), rows=4000.4,
            gain=0.12, price=Price(moves=16, bytes=1600, seconds=0.25),
        )  # fmt: skip

    return find


@dataclass
class CountingDirectory(FakeDirectory):
    """Tells figures of the tables that were in force, by revision; ``balances`` are what each revision brings,
    ``milliseconds`` what a token takes, in steps of 8 rows."""

    balances: dict[int, float] = field(default_factory=dict)
    rows: int = 5000
    milliseconds: dict[int, float] = field(default_factory=dict)

    def __call__(self, config: JsonObject) -> DirectoryReport | None:
        counted = [number for number in sorted(self.balances) if number <= told_directory(config).revision]
        self.epochs = tuple(
            epoch_figures(number, revision=number, rows=self.rows, balance=self.balances[number]).model_copy(
                update=self._timed(number)
            )
            for number in counted[-8:]
        )
        return super().__call__(config)

    def _timed(self, number: int) -> dict[str, Any]:
        took = self.milliseconds.get(number)
        if took is None:
            return {}
        lower, median, upper = (took * part / 1000 for part in (0.95, 1, 1.05))
        pace = Pace(rows=8, tokens=900, lower=lower, median=median, upper=upper)
        return {"paces": (pace,), "rows_per_step": 7.5, "rows_per_second": 100.0}


@dataclass
class Loop:
    """A bench, what finds placements for it, and what is counted of them."""

    bench: Bench
    brain: Brain
    directory: CountingDirectory

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.bench.kube.moe()["status"].get("rebalance", {})
        return found

    @property
    def decision(self) -> str:
        last = self.status["lastDecision"]
        return f"{last['result']} {last['reason']}"

    def verified(self, revision: int) -> str:
        return self.bench.judged(revision, "Verified")

    def counted(self, metric: str, **labels: str) -> float | None:
        return self.bench.metrics.registry.get_sample_value(metric, labels)

    async def until(self, what: Callable[[], bool], passes: int = 60) -> None:
        for _ in range(passes):
            if what():
                return
            await self.bench.work(seconds=1.0)
        raise AssertionError(f"not within {passes} s: {self.bench.phases()}, {self.status}")

    async def until_phases(self, **phases: str) -> None:
        wanted = {int(name.removeprefix("r")): phase for name, phase in phases.items()}
        await self.until(lambda: self.bench.phases() == wanted)


async def begin(bench: Bench, mode: str, *finds: Callable[[Question], Proposal], **rebalance: Any) -> Loop:
    """Of a deployment that is ready; ``finds``: what the looks find, nothing unless given."""
    directory = CountingDirectory(FACTS)
    bench.directory, bench.ray.report = directory, directory
    bench.worker = Brain(list(finds) or [nothing])
    bench.restart()
    bench.apply(rebalance={"mode": mode, **EVERY, **rebalance})
    await bench.ready()
    await bench.work(2, seconds=1.0)
    return Loop(bench, bench.worker, directory)
