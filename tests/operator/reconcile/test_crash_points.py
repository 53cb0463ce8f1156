"""The operator dies after each of its writes in turn, and another goes on: all ends as if nothing had happened.

A write is one to Kubernetes or to Ray; it is made, and its answer is the last thing that the process sees. Death at any
other moment leaves the same behind as death after the write before it.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
from bench import INTERNAL_KEY, Bench
from crashes import KUBE_WRITES, Calls, Counted, Crash
from fake_kube import Key

from moe_operator.kube.api import Json
from moe_operator.kube.resources import MOE_DEPLOYMENTS, SECRETS

MOST_PASSES = 40
"""More than any stage needs, crash included."""


def apply(bench: Bench) -> None:
    bench.apply(shards=2, experts={"shards": 2, "slotsPerShard": 8})


def scale_up(bench: Bench) -> None:
    bench.change(experts={"shards": 3, "slotsPerShard": 8})


def scale_down(bench: Bench) -> None:
    bench.change(experts={"shards": 1, "slotsPerShard": 8})


def another_model(bench: Bench) -> None:
    bench.change(model={"source": {"path": "models/other"}})


def sleep(bench: Bench) -> None:
    bench.change(experts={"shards": 0, "slotsPerShard": 8})


Stage = Callable[[Bench], None]

LIVES: list[tuple[Stage, ...]] = [
    (apply, scale_up, scale_down, another_model, Bench.delete),
    (apply, sleep, scale_up, Bench.delete),
]


def remains(bench: Bench) -> dict[str, Any]:
    """What Ray and Kubernetes have, without what counts operators and time."""
    configs = copy.deepcopy(bench.ray.configs)
    for config in configs.values():
        for deployment in config.get("deployments", ()):
            for counted in ("term", "revision"):
                deployment["user_config"].pop(counted, None)
            deployment["user_config"].pop("internal_key_sha256", None)
    kept: dict[str, Any] = {"ray": configs, "finalizers": None, "status": None}
    if bench.kube.exists(MOE_DEPLOYMENTS, "tiny"):
        status = copy.deepcopy(bench.kube.moe().get("status", {}))
        for condition in status.get("conditions", ()):
            del condition["lastTransitionTime"]
        status.get("placement", {}).pop("epoch", None)
        status.get("placement", {}).pop("revision", None)
        kept |= {"finalizers": bench.finalizers(), "status": status, "key": bench.kube.exists(SECRETS, INTERNAL_KEY)}
    return kept


@dataclass
class World:
    """What outlives an operator: objects, and what Ray runs."""

    objects: dict[Key, Json]
    configs: dict[str, Any]
    deleting: dict[str, int]

    @classmethod
    def of(cls, bench: Bench) -> Self:
        return cls(*copy.deepcopy((bench.kube.objects, bench.ray.configs, bench.ray._deleting)))

    def restore(self, bench: Bench) -> None:
        bench.kube.objects, bench.ray.configs, bench.ray._deleting = copy.deepcopy(
            (self.objects, self.configs, self.deleting)
        )


@dataclass
class Life:
    """An operator that lives through stages, and dies after a write where it is told to."""

    bench: Bench
    calls: Calls = field(default_factory=Calls)

    def restart(self) -> None:
        """Another process takes over."""
        bench, calls = self.bench, self.calls
        kube, http = bench.kube, bench.http
        bench.kube, bench.http = Counted(kube, calls, *KUBE_WRITES), Counted(http, calls, "call")  # type: ignore[assignment]
        bench.restart()
        bench.kube, bench.http = kube, http

    async def settle(self) -> None:
        """Passes until two in a row change nothing; a crash is followed by another process."""
        before = None
        for _ in range(MOST_PASSES):
            try:
                await self.bench.work(seconds=40.0)
            except Crash:
                self.restart()
            now = remains(self.bench)
            if now == before and not self.bench.ray._deleting:
                return
            before = now
        pytest.fail(f"it does not settle within {MOST_PASSES} passes: {before}")

    async def through(self, stage: Stage, fatal: int | None = None) -> tuple[dict[str, Any], int]:
        """What remains in the end of a stage, and how many writes it took; it dies after write ``fatal`` of them."""
        self.calls.made, self.calls.fatal = 0, fatal
        stage(self.bench)
        await self.settle()
        return remains(self.bench), self.calls.made


@pytest.mark.slow
@pytest.mark.parametrize("stages", LIVES, ids=lambda stages: "-".join(stage.__name__ for stage in stages))
async def test_a_death_after_any_write_changes_nothing_in_the_end(bench: Bench, stages: Sequence[Stage]) -> None:
    """First one process lives through all stages. Then each stage is begun by a process that has settled where it
    begins, as often as it has writes: what was there before, and what is written, are the same.
    """
    bench.ray.configs = {"shop": dict(bench.ray.shop)}
    bench.ray.deleting_reads = 2
    life = Life(bench)
    life.restart()
    worlds, ends = list[World](), list[tuple[dict[str, Any], int]]()
    for stage in stages:
        worlds.append(World.of(bench))
        ends.append(await life.through(stage))
    runs = [set(end["ray"]) != {"shop"} for end, _ in ends]
    assert runs == [stage not in (sleep, Bench.delete) for stage in stages]
    assert sum(writes for _, writes in ends) >= 20
    for stage, world, (right, writes) in zip(stages, worlds, ends, strict=True):
        for fatal in range(1, writes + 1):
            world.restore(bench)
            life.restart()
            await life.settle()
            there, made = await life.through(stage, fatal)
            assert made >= fatal, f"{stage.__name__} has {made} writes, and had {writes}"
            assert there == right, f"dead after write {fatal} of {writes} of {stage.__name__}"
