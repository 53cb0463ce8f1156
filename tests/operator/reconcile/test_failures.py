"""An object is told of whatever a pass over it meets: faults of our own, refusals, and answers that make no sense."""

import asyncio
import contextlib
from typing import Any

import pytest
from aiohttp import web
from bench import Bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kstatus import kstatus

from moe_contract.applications import CORE_IMPORT_PATH, SHARD_IMPORT_PATH
from moe_contract.model import ModelProblem
from moe_operator.errors import LeadershipLostError, OperatorError, StaleBasisError
from moe_operator.kube.errors import ConflictError, ForbiddenError, KubeError, KubeUnreachableError
from moe_operator.kube.resources import MOE_DEPLOYMENTS, SECRETS
from moe_operator.reconcile import cleanup, decider
from moe_operator.reconcile import reconciler as module
from moe_operator.reconcile.failure import failure
from moe_operator.runtimes.ray_cluster.runtime import RayCluster
from moe_operator.tasks import StrayCancellationError
from moe_operator.text import INVISIBLE

FORBIDDEN = ForbiddenError(
    'POST /secrets: secrets is forbidden: User "moe-operator" cannot create resource "secrets" in the namespace "team"',
    403,
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("a token"), "InternalError"),
        (RecursionError("a token"), "InternalError"),
        (MemoryError(), "InternalError"),
        (TimeoutError(), "InternalError"),
        (OperatorError("a token"), "InternalError"),
        (FORBIDDEN, "KubernetesRefused"),
        (KubeError("PUT /x: is invalid", 422), "KubernetesRefused"),
        (KubeError("PUT /x: etcd is down", 500), None),
        (KubeError("PUT /x: too many requests", 429), None),
        (KubeUnreachableError("PUT /x: no answer"), None),
        (ConflictError("PUT /x: changed", 409), None),
        (StaleBasisError("changed"), None),
        (LeadershipLostError("the Lease has run out"), None),
    ],
)
def test_what_is_told_of_it(error: Exception, reason: str | None) -> None:
    why = failure(error, 0.0)
    assert (why.reason if why else None) == reason
    assert why is None or "token" not in why.message


def test_a_fault_is_told_with_its_place() -> None:
    try:
        module.MoEDeployment.parse({"metadata": {"name": 7}})
    except OperatorError as error:
        why = failure(error, 0.0)
    assert why is not None
    assert "InvalidObjectError in api/deployment.py, line " in why.message


async def fail(bench: Bench, monkeypatch: pytest.MonkeyPatch, error: BaseException, passes: int = 1) -> None:
    def broken(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(decider, "next_intent", broken)
        for _ in range(passes):
            with pytest.raises(type(error)):
                await bench.work(seconds=5.0)


async def test_an_object_whose_first_pass_fails_has_a_status_and_an_event(bench: Bench, monkeypatch) -> None:
    bench.apply()
    await fail(bench, monkeypatch, KeyError("secret-token"), passes=4)
    assert bench.condition("Ready") == "Unknown InternalError"
    assert bench.condition("Degraded") == "True InternalError"
    assert bench.condition("Reconciling") == "True InternalError"
    assert "KeyError in " in bench.kube.moe()["status"]["conditions"][0]["message"]
    assert "secret-token" not in str(bench.kube.objects)
    assert bench.kube.reasons() == ["InternalError"]
    await bench.work(5, seconds=5.0)
    assert bench.condition("Ready") == "True Available"
    assert bench.condition("Degraded") == "False AsExpected"


async def test_what_serves_stays_ready_for_a_while(bench: Bench, monkeypatch) -> None:
    bench.apply()
    await bench.ready()
    await fail(bench, monkeypatch, ZeroDivisionError(), passes=5)
    assert (bench.condition("Ready"), bench.condition("Degraded")) == ("True Available", "True InternalError")
    await fail(bench, monkeypatch, ZeroDivisionError(), passes=5)
    assert bench.condition("Ready") == "Unknown InternalError"


async def test_a_pass_that_takes_too_long_is_told_of(bench: Bench, monkeypatch) -> None:
    bench.apply()
    monkeypatch.setattr(module, "WORK_SECONDS", 0.05)

    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(type(bench.reconciler), "_work", hang)
    with pytest.raises(TimeoutError):
        await bench.work()
    assert bench.condition("Degraded") == "True InternalError"
    assert "it took too long" in bench.kube.moe()["status"]["conditions"][0]["message"]


async def test_a_cancellation_that_nobody_asked_for_is_told_of(bench: Bench, monkeypatch) -> None:
    bench.apply()

    async def stray(*_: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(type(bench.reconciler), "_work", stray)
    with pytest.raises(StrayCancellationError):
        await bench.work()
    assert bench.condition("Degraded") == "True InternalError"


async def test_a_right_that_is_missing_is_named(bench: Bench, monkeypatch) -> None:
    """Also when it is missed on a child and not on the object itself."""
    create = bench.kube.create

    async def refuse(resource: Any, body: Any) -> Any:
        if resource == SECRETS:
            raise FORBIDDEN
        return await create(resource, body)

    monkeypatch.setattr(bench.kube, "create", refuse)
    bench.apply()
    with pytest.raises(ForbiddenError):
        await bench.work()
    assert bench.condition("Degraded") == "True KubernetesRefused"
    assert 'cannot create resource "secrets"' in bench.kube.moe()["status"]["conditions"][0]["message"]
    assert kstatus(bench.kube.moe()) == "Failed"


async def test_a_deletion_that_fails_by_a_fault_of_ours_ends_all_the_same(bench: Bench, monkeypatch) -> None:
    bench.apply()
    await bench.ready()
    bench.delete()
    monkeypatch.setattr(RayCluster, "_what_is_left", lambda *_: 1 / 0)
    await bench.work(2, seconds=5.0)
    assert (bench.condition("Ready"), bench.condition("Degraded")) == ("False Deleting", "True InternalError")
    await bench.work(4, seconds=100.0)
    assert not bench.kube.exists(MOE_DEPLOYMENTS, "tiny")
    assert bench.kube.reasons()[-1] == "CleanupAbandoned"


async def test_so_does_one_of_which_every_attempt_takes_too_long(bench: Bench, monkeypatch) -> None:
    bench.apply()
    await bench.ready()
    bench.delete()
    monkeypatch.setattr(cleanup, "ATTEMPT_SECONDS", 0.05)

    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(RayCluster, "remove", hang)
    await bench.work(5, seconds=100.0)
    assert not bench.kube.exists(MOE_DEPLOYMENTS, "tiny")
    assert bench.kube.reasons()[-1] == "CleanupAbandoned"


# Everything that is JSON, and more often what looks like an answer.
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["default", "shop", "moe.team.tiny.0123abcd", "moe.team.tiny.0123abcd.experts-0"])


async def test_one_that_sleeps_still_says_what_its_model_is(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    bench.change(experts={"shards": 0})
    await bench.work(6, seconds=5.0)
    assert (bench.condition("Ready"), bench.condition("ModelValid")) == ("True Asleep", "True ModelRead")


@pytest.mark.parametrize("status", ["DEPLOY_FAILED", "UNHEALTHY"])
async def test_what_answers_is_the_same_number_in_message_and_column(bench: Bench, status: str) -> None:
    bench.apply()
    await bench.ready()
    for name in bench.ray.configs:
        bench.ray.set_status(name, status, "ValueError: x")
    await bench.work(3, seconds=8.0)
    told = bench.kube.moe()["status"]
    (ready,) = (each for each in told["conditions"] if each["type"] == "Ready")
    assert ready["status"] == "True"
    assert ready["message"].startswith(f"{told['readyShards']} expert shards")
    assert "2 more answer, as the directory reports, which Serve calls failed or unhealthy" in ready["message"]


FORGED = "x\n01:14:00.000 ERROR   kube-system/forged\x1b]0;title\x07\x9b\u2028\u202eb\u2066"


async def test_what_serve_says_makes_no_line_in_conditions_and_events(bench: Bench) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            return web.Response(status=400, body=FORGED.encode(errors="replace"))
        return await bench.ray.answer(request)

    bench.ray.override = refuse
    bench.apply()
    await bench.work(3, seconds=5.0)
    assert bench.condition("Degraded") == "True DeployFailed"
    tells_nothing_invisible(bench, r"x\n01:14:00.000 ERROR   kube-system/forged\x1b]0;title\x07")


async def test_what_a_directory_says_makes_no_line_either(bench: Bench) -> None:
    bench.directory.problem = ModelProblem(reason="ConfigInvalid", message=FORGED)
    bench.apply()
    await bench.work(5, seconds=5.0)
    assert bench.condition("Degraded") == "True ConfigInvalid"
    tells_nothing_invisible(bench, r"\u202eb\u2066")


def tells_nothing_invisible(bench: Bench, says: str) -> None:
    told = [each["message"] for each in bench.kube.moe()["status"]["conditions"]]
    told += [event["note"] for event in bench.kube.events()]
    assert sum(says in each for each in told) >= 2, told
    assert not [each for each in told if INVISIBLE.search(each)]


words = st.sampled_from(["RUNNING", "DEPLOY_FAILED", "UNHEALTHY", "DELETING", "?"])


def objects(required: dict[str, Any]) -> st.SearchStrategy[Any]:
    """With some of these fields, some of them nonsense."""
    return st.fixed_dictionaries({}, optional={name: value | documents for name, value in required.items()})


configs = objects(
    {
        "name": names,
        "route_prefix": st.sampled_from(["/", "/team/tiny", "/team/tiny/v1"]),
        "import_path": st.sampled_from(["shop:app", CORE_IMPORT_PATH, SHARD_IMPORT_PATH]),
        "args": objects({"model": objects({"path": st.just("models/tiny")})}),
        "deployments": st.lists(objects({"name": st.just("directory"), "user_config": documents}), max_size=2),
    }
)
applications = objects(
    {"status": words, "message": st.text(max_size=9), "deployed_app_config": configs, "source": words}
)
states = objects(
    {
        "controller_info": objects({"actor_id": st.just("c")}),
        "applications": st.dictionaries(names, applications, max_size=3),
        "target_capacity": st.floats(0, 100),
    }
)
FIGURES = ("layers", "experts", "top_k", "bytes_per_expert", "max_context")
wild = st.integers(-2, 9) | st.just(2**70)
facts = st.fixed_dictionaries(
    dict.fromkeys(FIGURES, wild) | dict.fromkeys(("digest", "architecture", "dtype"), st.text(max_size=5))
)


def report_of(numbers: list[int], model: Any, placement: str | None) -> dict[str, Any]:
    """In the form of a directory's, with figures that make no sense."""
    return {
        "term": numbers[0],
        "revision": numbers[1],
        "epoch": numbers[2],
        "model": model,
        "placement": placement,
        "progress": {"copied": numbers[3], "total": numbers[4], "settled": numbers[0] % 2 == 0},
        "shards": [{"index": number, "phase": "Ready", "held": number, "wanted": number} for number in numbers],
        "attention": [{"replica": "a", "ready": numbers[1] % 2 == 0, "epoch": 0, "running": 0, "waiting": 0}],
    }


well_formed = st.builds(
    report_of, st.lists(wild, min_size=5, max_size=5), st.none() | facts, st.none() | st.text(max_size=9)
)
reports = well_formed | objects({"term": wild, "revision": wild, "progress": documents}) | documents


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states | documents, report=reports, served=st.booleans(), nonsense=st.booleans())
async def test_every_answer_ends_in_a_status(
    bench: Bench, state: Any, report: Any, served: bool, nonsense: bool
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/internal/report"):
            return web.json_response(report)
        return web.json_response(state) if nonsense else await bench.ray.answer(request)

    bench.ray.override = None
    bench.ray.configs.clear()
    bench.kube.objects.clear()
    bench.restart()
    bench.apply()
    if served:
        await bench.ready()
    bench.ray.override = answer
    for _ in range(4):
        with contextlib.suppress(OperatorError):
            await bench.work(seconds=10.0)
    status = bench.kube.moe()["status"]
    assert len(status["conditions"]) == 7
    assert status["observedGeneration"] == 1
    assert all(-(2**63) <= number < 2**63 for number in numbers_in(status))


def numbers_in(value: Any) -> list[int]:
    """Kubernetes takes no others."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for each in value for number in numbers_in(each)]
    return [value] if isinstance(value, int) else []


async def restless(request: web.Request) -> web.StreamResponse:
    """Serve runs under another controller at each look."""
    restless.looks += 1  # type: ignore[attr-defined]
    controller = {"actor_id": f"controller-{restless.looks}"}  # type: ignore[attr-defined]
    return web.json_response({"applications": {}, "controller_info": controller})


restless.looks = 0  # type: ignore[attr-defined]


async def test_intents_that_are_overtaken_again_and_again_are_told_of(bench: Bench) -> None:
    bench.ray.override = restless
    bench.apply()
    await bench.work(2)
    assert "status" not in bench.kube.moe()
    await bench.work(seconds=31.0)
    assert bench.condition("Degraded") == "True RayUnreachable"
    bench.ray.override = None
    await bench.ready()


async def test_and_do_not_keep_an_object_for_ever(bench: Bench) -> None:
    bench.apply()
    await bench.ready()

    async def overtaken(*_: Any, **__: Any) -> Any:
        raise StaleBasisError("Serve changed while it was being looked at")

    bench.runtimes.clusters.at(bench.ray.url).apply = overtaken  # type: ignore[method-assign]
    bench.delete()
    await bench.work(12, seconds=30.0)
    assert not bench.kube.exists(MOE_DEPLOYMENTS, "tiny")
    assert bench.kube.reasons()[-1] == "CleanupAbandoned"


async def test_answers_that_restart_serve_at_each_look_pile_up_nowhere(bench: Bench) -> None:
    bench.ray.override = restless
    bench.apply()
    await bench.work(5)
    assert len(bench.runtimes.orphans._seen) == 1
