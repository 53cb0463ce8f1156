"""Who stops giving signs of life is named, and the probe fails; over HTTP as a kubelet asks."""

import aiohttp
import pytest
from clock import Clock

from moe_operator.telemetry.liveness import Liveness
from moe_operator.telemetry.metrics import Metrics
from moe_operator.telemetry.server import telemetry_server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def liveness(clock: Clock) -> Liveness:
    liveness = Liveness(clock)
    liveness.expect("worker-1", limit=60)
    liveness.expect("resync", limit=600)
    return liveness


def test_signs_of_life_in_time_are_no_problem(clock: Clock, liveness: Liveness) -> None:
    for clock.now in range(0, 600, 60):
        liveness.beat("worker-1")
        assert liveness.problem() is None


def test_a_stuck_worker_is_named_to_anyone_and_its_key_to_the_log_only(clock: Clock, liveness: Liveness) -> None:
    liveness.beat("worker-1", doing="team/tiny")
    clock.now = 61
    assert liveness.problem() == "worker-1 gave no sign of life for 61 s (limit 60 s)"
    assert liveness.overdue() == "worker-1 gave no sign of life for 61 s (limit 60 s), last doing: team/tiny"
    liveness.beat("worker-1")
    assert liveness.problem() is None
    assert liveness.overdue() is None


def test_what_is_said_is_told_until_it_is_over(liveness: Liveness) -> None:
    liveness.say("access", "refused for 20 s")
    liveness.say("access", "refused for 21 s")
    assert liveness.problem() == "refused for 21 s"
    assert liveness.overdue() is None
    liveness.say("access", None)
    assert liveness.problem() is None


def test_a_task_that_never_began_and_a_loop_that_died_are_found(clock: Clock, liveness: Liveness) -> None:
    clock.now = 601
    problem = liveness.overdue()
    assert problem is not None
    assert "worker-1 gave no sign of life for 601 s (limit 60 s), last doing: starting" in problem
    assert "resync gave no sign of life for 601 s" in problem


def test_a_sign_of_somebody_unexpected_is_a_mistake(liveness: Liveness) -> None:
    with pytest.raises(KeyError):
        liveness.beat("worker-2")


async def fetch(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_the_probe_tells_life_and_its_end_with_the_reason(clock: Clock, liveness: Liveness) -> None:
    metrics = Metrics()
    metrics.queue_depth(3)
    async with telemetry_server(("127.0.0.1", 0), metrics.exposition, {"/healthz": liveness.problem}) as port:
        base = f"http://127.0.0.1:{port}"
        assert await fetch(f"{base}/healthz") == (200, "ok\n")
        status, text = await fetch(f"{base}/metrics")
        assert status == 200
        assert "moe_operator_queue_depth 3.0" in text
        clock.now = 61
        status, text = await fetch(f"{base}/healthz")
        assert status == 503
        assert text.startswith("worker-1 gave no sign of life for 61 s")


async def test_a_port_that_is_taken_is_an_error(liveness: Liveness) -> None:
    async with telemetry_server(("127.0.0.1", 0), Metrics().exposition, {}) as port:
        with pytest.raises(OSError, match="in use"):
            async with telemetry_server(("127.0.0.1", port), Metrics().exposition, {}):
                pytest.fail("two servers on one port")
