"""When a key is worked again after each way a pass can end; and that no key is lost or works for ever unseen."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from moe_operator.api import MoEDeploymentStatus
from moe_operator.errors import LeadershipLostError, StaleBasisError
from moe_operator.kube.api import Listing
from moe_operator.kube.client import REQUEST_SECONDS
from moe_operator.kube.errors import ConflictError, KubeError
from moe_operator.kube.resources import EXPERT_PLACEMENTS, MOE_DEPLOYMENTS
from moe_operator.kube.store import ObjectStore
from moe_operator.process import supervisor
from moe_operator.reconcile import cleanup, reconciler
from moe_operator.reconcile import controller as module
from moe_operator.reconcile.backoff import Backoff
from moe_operator.reconcile.controller import Controller, HistoryLostError
from moe_operator.reconcile.decider import DECIDING
from moe_operator.reconcile.reconciler import Result
from moe_operator.runtimes.http import client as http
from moe_operator.runtimes.ray_cluster.serve_rest.client import READ_SECONDS, WRITE_SECONDS
from moe_operator.telemetry.liveness import Liveness
from moe_operator.telemetry.metrics import Metrics
from moe_operator.tenant import tenant

TOLD = MoEDeploymentStatus()
SETTLED = Result(TOLD, again=3600.0)


def moe(name: str, namespace: str = "team", version: int = 10, uid: str = "u-1") -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": name, "resourceVersion": str(version), "uid": uid}
    return {"metadata": metadata}


class Left(float):
    """Seconds after which a pass ends of an object that is gone and has left something."""


@dataclass(frozen=True)
class Failing:
    """How a pass ends that fails after so many seconds."""

    seconds: float
    error: Exception


class Script:
    """In place of a Reconciler and of the API server's list: each pass ends as the next entry says.

    None: never; seconds: after so long without having got anywhere.
    """

    def __init__(self, **passes: list[Any]) -> None:
        self.passes = {key.replace("__", "/"): list(ends) for key, ends in passes.items()}
        self.present: list[str] = list(self.passes)
        self.worked: list[str] = []
        self.version = 10

    async def reconcile(self, key: str) -> Result:
        self.worked.append(key)
        end = self.passes[key].pop(0)
        if isinstance(end, BaseException):
            raise end
        if end is None:
            await asyncio.Event().wait()
        if isinstance(end, Failing):
            await asyncio.sleep(end.seconds)
            raise end.error
        if isinstance(end, Left):
            await asyncio.sleep(end)
            return Result(again=0.01, left_behind=True)
        if isinstance(end, float):
            await asyncio.sleep(end)
            return Result(TOLD)
        return end

    def orphaned(self, known: Any, namespaces: Any) -> int:
        return 0

    async def list(self, resource: Any, namespace: str | None = None) -> Listing:
        if resource != MOE_DEPLOYMENTS:
            return Listing([], str(self.version))
        self.version += 1
        keys = [key.partition("/") for key in self.present]
        return Listing([moe(name, ns) for ns, _, name in keys if namespace in (None, ns)], str(self.version))

    async def until(self, what: str, check: Callable[[], bool]) -> None:
        for _ in range(1000):
            if check():
                return
            await asyncio.sleep(0.005)
        pytest.fail(f"waited 5 s for {what}; worked: {self.worked}")


def a_controller(script: Script, **options: Any) -> Controller:
    return Controller(
        reconciler=script,  # type: ignore[arg-type]  # the one method that is called
        api=script,  # type: ignore[arg-type]  # the one method that is called
        store=ObjectStore(),
        liveness=Liveness(),
        metrics=Metrics(),
        workers=2,
        resync_seconds=options.pop("resync_seconds", 3600.0),
        backoff=Backoff(first=0.01, cap=0.02),
        **options,
    )


@asynccontextmanager
async def working(script: Script, **options: Any) -> AsyncIterator[Controller]:
    controller = a_controller(script, **options)
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONFLICT_SECONDS", 0.01)


@pytest.mark.parametrize(
    "end",
    [
        ConflictError("somebody wrote", 409),
        KubeError("no", 500),
        ValueError("a defect"),
        Result(TOLD),
        Result(TOLD, again=0.01),
    ],
    ids=lambda end: type(end).__name__,
)
async def test_a_key_comes_again(end: Any) -> None:
    script = Script(team__a=[end, SETTLED], team__b=[SETTLED])
    async with working(script) as controller:
        await script.until("two passes of a", lambda: sorted(script.worked) == ["team/a", "team/a", "team/b"])
        await script.until("both to be told", lambda: controller.statuses.keys() == {"team/a", "team/b"})


async def test_a_pass_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASS_SECONDS", 0.05)
    script = Script(team__a=[None, SETTLED])
    async with working(script):
        await script.until("another pass", lambda: len(script.worked) == 2)


async def test_a_key_that_is_gone_is_forgotten() -> None:
    script = Script(team__a=[SETTLED, Result()])
    async with working(script, resync_seconds=0.05) as controller:
        await script.until("the first pass", lambda: controller.statuses.keys() == {"team/a"})
        # Nobody tells of the deletion: only the resync can find it.
        script.present.clear()
        await script.until("a to be forgotten", lambda: not controller.statuses)
        worked = len(script.worked)
        await asyncio.sleep(0.2)
        assert len(script.worked) == worked


async def test_events_are_worked_and_what_is_already_known_is_not() -> None:
    script = Script(team__a=[SETTLED] * 9)
    script.present.clear()
    async with working(script) as controller:
        await script.until("the first listing", lambda: script.version == 11)
        controller.deliver("ADDED", moe("a", version=20))
        await script.until("the first pass", lambda: len(script.worked) == 1)
        controller.deliver("MODIFIED", moe("a", version=20))
        controller.deliver("MODIFIED", moe("a", version=19))
        controller.deliver("MODIFIED", moe("a", version=21))
        await script.until("the second pass", lambda: len(script.worked) == 2)
        controller.deliver("DELETED", moe("a", version=22))
        controller.deliver("MODIFIED", moe("a", version=21))
        await script.until("the third pass", lambda: len(script.worked) == 3)
        await asyncio.sleep(0.05)
        assert len(script.worked) == 3
        assert controller.store.get("team/a") is None


async def test_no_key_is_worked_before_the_placements_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass without them would place anew what has a placement, where Ray has lost it."""
    script, known = Script(team__a=[SETTLED] * 9), asyncio.Event()

    async def list_(resource: Any, namespace: str | None = None) -> Listing:
        if resource == EXPERT_PLACEMENTS:
            await known.wait()
        return await Script.list(script, resource, namespace)

    monkeypatch.setattr(script, "list", list_)
    async with working(script) as controller:
        controller.deliver("ADDED", moe("a", version=5))
        await asyncio.sleep(0.1)
        assert script.worked == []
        known.set()
        await script.until("the first pass", lambda: script.worked != [])


async def test_an_event_of_a_placement_is_work_for_its_deployment() -> None:
    script = Script(team__a=[SETTLED] * 9)
    script.present.clear()
    async with working(script) as controller:
        await script.until("the first listing", lambda: script.version == 11)
        controller.deliver_placement("ADDED", moe("a-r7", version=20))
        await script.until("a pass", lambda: script.worked == ["team/a"])
        controller.deliver_placement("MODIFIED", moe("a-r7", version=20))
        controller.deliver_placement("DELETED", moe("a-r7", version=21))
        await script.until("another", lambda: script.worked == ["team/a"] * 2)


async def test_an_api_server_that_was_put_back_ends_everything() -> None:
    script = Script(team__a=[SETTLED])
    controller = a_controller(script)
    controller.store.put(moe("a", version=1000))
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(5):
            await controller.run()
    assert ended.group_contains(HistoryLostError, match="at version 11 and was at 1000 before")


async def test_so_does_one_of_which_only_placements_had_been_newer() -> None:
    controller = a_controller(Script(team__a=[SETTLED]))
    controller.placements.put(moe("a-r1", version=1000))
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(5):
            await controller.run()
    assert ended.group_contains(HistoryLostError, match="at version 11 and was at 1000 before")


async def test_placements_that_are_there_before_their_deployment_are_work_for_it() -> None:
    script = Script(team__b=[SETTLED])
    script.present.clear()
    controller = a_controller(script)
    controller.placements.put(moe("b-r1", version=11))
    task = asyncio.create_task(controller.run())
    await script.until("a pass", lambda: script.worked == ["team/b"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_lost_lease_ends_everything() -> None:
    script = Script(team__a=[LeadershipLostError("the Lease has run out")], team__b=[None])
    told: list[LeadershipLostError] = []
    controller = a_controller(script, on_lost=told.append)
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(5):
            await controller.run()
    assert ended.group_contains(LeadershipLostError)
    assert [str(lost) for lost in told] == ["the Lease has run out"]


async def test_only_the_namespaces_asked_for() -> None:
    script = Script(team__a=[SETTLED], other__b=[SETTLED])
    async with working(script, namespaces=("team",)):
        await script.until("a pass", lambda: script.worked == ["team/a"])


async def test_health_names_the_worker_that_hangs_and_the_log_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT_SECONDS", 2.0)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    script = Script(team__a=[None], team__b=[SETTLED])
    async with working(script) as controller:
        await script.until("the problem", lambda: "last doing: team/a" in (controller.liveness.overdue() or ""))
        await script.until(
            "nobody else to be late", lambda: (controller.liveness.problem() or "").count("gave no sign") == 1
        )
        assert "team/a" not in (controller.liveness.problem() or "")


def test_what_blocks_a_worker_or_a_loop_is_seen_within_a_minute() -> None:
    assert module.PASS_SECONDS < module.LIMIT_SECONDS
    assert module.LIST_SECONDS < module.LIMIT_SECONDS
    assert module.LIMIT_SECONDS + supervisor.GRACE_SECONDS + 2 * supervisor.LOOK_SECONDS < 60
    assert WRITE_SECONDS < cleanup.ATTEMPT_SECONDS < reconciler.WORK_SECONDS
    assert READ_SECONDS + http.LARGE_WAIT_SECONDS + http.READING.seconds < reconciler.WORK_SECONDS
    assert READ_SECONDS + DECIDING.seconds < reconciler.WORK_SECONDS
    assert cleanup.DEPARTED_SECONDS + reconciler.WORK_SECONDS + REQUEST_SECONDS < module.PASS_SECONDS


async def test_a_cancellation_that_nobody_asked_for_is_an_error_and_the_worker_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strays = [asyncio.CancelledError() for _ in range(4)]
    script = Script(team__a=[*strays, SETTLED], team__b=[SETTLED])
    async with working(script) as controller:
        await script.until("a to be told", lambda: "team/a" in controller.statuses)
        assert script.worked.count("team/a") == 5
        errors = controller.metrics.registry.get_sample_value("moe_operator_reconciles_total", {"result": "error"})
        assert errors == 4
    assert "reconcile was cancelled by nobody" in caplog.text


async def test_a_queue_whose_wait_is_cancelled_by_nobody_is_waited_for_again() -> None:
    script = Script(team__a=[SETTLED])
    script.present.clear()
    async with working(script) as controller:
        take, strays = controller.queue.take, 5

        async def broken() -> str:
            nonlocal strays
            strays -= 1
            if strays >= 0:
                raise asyncio.CancelledError
            return await take()

        controller.queue.take = broken  # type: ignore[method-assign]
        controller.enqueue("team/x")  # wakes a worker, whose next wait is broken
        script.passes["team/x"] = [SETTLED]
        await script.until("all strays", lambda: strays < 0)
        controller.enqueue("team/a")
        await script.until("a pass", lambda: "team/a" in script.worked)


async def test_a_resync_that_is_cancelled_by_nobody_or_hangs_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST_SECONDS", 0.05)
    script, ends = Script(team__a=[SETTLED] * 9), [asyncio.CancelledError(), None]
    listed = script.list

    async def list_or_not(resource: Any, namespace: str | None = None) -> Listing:
        if not ends:
            return await listed(resource, namespace)
        if ends.pop(0) is None:
            await asyncio.Event().wait()
        raise asyncio.CancelledError

    script.list = list_or_not  # type: ignore[method-assign]
    monkeypatch.setattr(module, "Backoff", lambda first, cap: Backoff(0.01, 0.02))
    async with working(script):
        await script.until("a pass", lambda: script.worked == ["team/a"])


async def test_a_worker_that_ends_by_a_defect_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(team__a=[SETTLED])
    controller = a_controller(script)
    monkeypatch.setattr(Controller, "_schedule", lambda *_: 1 / 0)
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(5):
            await controller.run()
    assert ended.group_contains(ZeroDivisionError)


async def test_rays_that_do_not_answer_leave_workers_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.05)
    monkeypatch.setattr(module, "SLOW_CAP_SECONDS", 0.02)
    silent = {f"team__silent{number}": [0.1] * 100 for number in range(8)}
    script = Script(team__a=[Result(TOLD, again=0.01)] * 1000, **silent)
    async with working(script):
        await script.until("a pass over each", lambda: len(set(script.worked)) == 9)
        before = script.worked.count("team/a")
        await asyncio.sleep(0.6)
        assert script.worked.count("team/a") - before > 10
        assert sum("silent" in key for key in script.worked) > 8


@pytest.mark.parametrize(
    "error", [TimeoutError(), KubeError("no", 500), ValueError("a defect"), StaleBasisError("overtaken")], ids=repr
)
async def test_what_takes_long_and_fails_is_slow_and_comes_seldomer(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.02)
    monkeypatch.setattr(module, "SLOW_CAP_SECONDS", 30.0)
    monkeypatch.setattr(Backoff, "next_delay", lambda self, key, cap=None: 0.01 if cap is None else cap)
    script = Script(**{f"team__a{number}": [Failing(0.05, error)] * 9 for number in range(4)})
    async with working(script) as controller:
        await script.until("a pass over each", lambda: len(controller.queue._slow) == 4)
        await asyncio.sleep(0.2)
    assert sorted(script.worked) == [f"team/a{number}" for number in range(4)]


async def test_the_log_names_the_bound_that_was_met(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PASS_SECONDS", 0.2)
    script = Script(team__a=[TimeoutError("the work of a pass did not end within 34 s"), None, SETTLED])
    async with working(script):
        await script.until("three passes", lambda: len(script.worked) == 3)
    said = [record.message for record in caplog.records if "did not end" in record.message]
    assert said == ["the work of a pass did not end within 34 s", "a pass did not end within 0 s"]


async def test_what_a_pass_asks_for_is_asked_for_its_namespace() -> None:
    script = Script(team__a=[SETTLED])
    seen: list[str] = []
    reconcile = script.reconcile

    async def look(key: str) -> Result:
        seen.append(tenant())
        return await reconcile(key)

    script.reconcile = look  # type: ignore[method-assign]
    async with working(script):
        await script.until("a pass", lambda: seen == ["team"])


async def test_passes_that_are_overtaken_each_time_come_seldomer() -> None:
    script = Script(team__a=[*[ConflictError("somebody wrote", 409)] * 100, SETTLED])
    async with working(script):
        await asyncio.sleep(0.5)
    assert 3 <= len(script.worked) <= 10


async def test_what_is_left_behind_keeps_no_worker_that_others_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.02)
    left = {f"team__a{number}": [Left(0.05)] * 100 for number in range(8)}
    script = Script(**left, team__b=[SETTLED])
    async with working(script) as controller:
        await script.until("some passes", lambda: len(script.worked) > 20)
        assert len(controller.queue._slow) == 8
