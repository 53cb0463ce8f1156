"""The operator dies after each of its writes in turn, and another goes on: all ends as if nothing had happened.

A write is one to Kubernetes or to Ray; it is made, and its answer is the last thing that the process sees. Death at any
other moment leaves the same behind as death after the write before it.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from bench import INTERNAL_KEY, Bench
from crashes import KUBE_WRITES, Calls, Counted, Crash
from fake_ray import FakeDirectory
from moe_facts import FACTS

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


LIVES: list[tuple[Callable[[Bench], None], ...]] = [
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


async def settle(bench: Bench, restart: Callable[[], None]) -> None:
    """Passes until two in a row change nothing; a crash is followed by another process."""
    before = None
    for _ in range(MOST_PASSES):
        try:
            await bench.work(seconds=40.0)
        except Crash:
            restart()
        now = remains(bench)
        if now == before and not bench.ray._deleting:
            return
        before = now
    pytest.fail(f"it does not settle within {MOST_PASSES} passes: {before}")


async def live(
    bench: Bench, life: Sequence[Callable[[Bench], None]], fatal: int | None
) -> tuple[list[dict[str, Any]], int]:
    """A life of its own, dying after write ``fatal``; what remains after each stage, and how many writes it took.

    It ends with the stage in which it dies: what comes later begins with what is as it would be.
    """
    calls = Calls(fatal)
    bench.ray.configs = {"shop": dict(bench.ray.shop)}
    bench.ray._deleting.clear()
    bench.ray.deleting_reads = 2
    bench.ray.report = FakeDirectory(FACTS)
    bench.kube.objects.clear()
    kube, http = bench.kube, bench.http

    def restart() -> None:
        bench.kube, bench.http = Counted(kube, calls, *KUBE_WRITES), Counted(http, calls, "call")  # type: ignore[assignment]
        bench.restart()
        bench.kube, bench.http = kube, http

    restart()
    stages = []
    for stage in life:
        stage(bench)
        await settle(bench, restart)
        stages.append(remains(bench))
        if fatal and calls.made >= fatal:
            break
    return stages, calls.made


@pytest.mark.parametrize("life", LIVES, ids=lambda life: "-".join(stage.__name__ for stage in life))
async def test_a_death_after_any_write_changes_nothing_in_the_end(
    bench: Bench, life: Sequence[Callable[[Bench], None]]
) -> None:
    expected, writes = await live(bench, life, None)
    runs = [set(stage["ray"]) != {"shop"} for stage in expected]
    assert runs == [stage not in (sleep, Bench.delete) for stage in life]
    assert writes >= 20
    for fatal in range(1, writes + 1):
        found, _ = await live(bench, life, fatal)
        for stage, right, there in zip(life, expected, found, strict=False):
            assert there == right, f"dead after write {fatal} of {writes}, in the end of {stage.__name__}"
