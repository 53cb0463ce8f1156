"""What has stopped living is told by the probe first, then it ends the process; what comes back to life does not."""

import asyncio
from collections.abc import Callable

import pytest
from clock import Clock

from moe_operator.process import supervisor as module
from moe_operator.process.supervisor import NoAccessError, StuckError, supervise
from moe_operator.telemetry.liveness import Liveness


class Bench:
    """The supervisor with its time in the test's hand: each look is a second later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.liveness = Liveness(self.clock)
        self.looks = 0
        self.refused = 0.0
        self.forbidden = 0.0
        self.unseen: str | None = None
        self.each: Callable[[], None] = lambda: None
        self.probe: list[str | None] = []
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)

    def look(self) -> None:
        self.looks += 1
        self.clock.now += 1.0
        self.each()
        self.probe.append(self.liveness.problem())

    async def run(self) -> None:
        async with asyncio.timeout(5):
            await supervise(
                self.liveness,
                self.look,
                lambda: self.refused,
                lambda: self.forbidden,
                lambda seconds: self.unseen,
                clock=self.clock,
            )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def test_what_gives_no_sign_of_life_ends_the_process_after_the_probe_has_told(bench: Bench) -> None:
    bench.liveness.expect("worker-1", 50)
    bench.liveness.beat("worker-1", "team/tiny")
    with pytest.raises(StuckError, match=r"worker-1 gave no sign of life .* last doing: team/tiny"):
        await bench.run()
    assert bench.clock.now < 60
    told = [problem for problem in bench.probe if problem]
    assert len(told) >= 4
    assert not any("team/tiny" in problem for problem in told)


async def test_a_process_that_was_frozen_may_catch_up(bench: Bench) -> None:
    bench.liveness.expect("worker-1", 50)

    def each() -> None:
        if bench.looks == 10:
            bench.clock.now += 600
        if bench.looks == 12:
            bench.liveness.beat("worker-1")
        if bench.looks == 40:
            raise InterruptedError

    bench.each = each
    with pytest.raises(InterruptedError):
        await bench.run()


async def test_a_watch_that_delivers_nothing_ends_the_process_and_only_the_log_names_the_object(bench: Bench) -> None:
    bench.unseen = "team/tiny"
    with pytest.raises(StuckError, match=r"the watch has not delivered for 40 s .*: team/tiny"):
        await bench.run()
    assert any("the watch has not delivered" in (problem or "") for problem in bench.probe)
    assert not any("team/tiny" in (problem or "") for problem in bench.probe)


async def test_credentials_that_stay_refused_end_the_process_after_the_probe_has_told(bench: Bench) -> None:
    def each() -> None:
        bench.refused = bench.clock.now

    bench.each = each
    with pytest.raises(NoAccessError, match=r"answered 401 Unauthorized for 5\d s"):
        await bench.run()
    assert bench.clock.now < 60
    assert any("refused the operator's credentials" in (problem or "") for problem in bench.probe)


async def test_a_lease_that_stays_forbidden_ends_the_process_after_the_probe_has_told(bench: Bench) -> None:
    def each() -> None:
        bench.forbidden = bench.clock.now

    bench.each = each
    with pytest.raises(NoAccessError, match=r"403 Forbidden .* for 5\d s: name the Lease in resourceNames of the Role"):
        await bench.run()
    assert bench.clock.now < 60
    assert bench.probe[10] is None
    assert "403 Forbidden" in (bench.probe[30] or "")


async def test_credentials_that_are_accepted_again_are_no_problem_any_more(bench: Bench) -> None:
    def each() -> None:
        bench.refused = float(bench.looks) if bench.looks < 40 else 0.0
        if bench.looks == 100:
            raise InterruptedError

    bench.each = each
    with pytest.raises(InterruptedError):
        await bench.run()
    assert bench.probe[30] is not None
    assert bench.probe[60] is None
