"""The elector with a clock that the test moves and an API server that fails on demand."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import pytest

from moe_operator.errors import LeadershipLostError
from moe_operator.kube.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    KubeUnreachableError,
    NotFoundError,
)
from moe_operator.kube.resources import Resource
from moe_operator.leader import Elector, LeaseSettings


class Clock:
    """Time moves only in ``advance``, from one sleeper's turn to the next."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.now + seconds, turn))
        await turn

    async def advance(self, seconds: float) -> None:
        end = self.now + seconds
        await self._let_run()
        while due := sorted(at for at, turn in self.sleepers if at <= end):
            self.now = due[0]
            for at, turn in self.sleepers:
                if at <= self.now and not turn.done():
                    turn.set_result(None)
            self.sleepers = [(at, turn) for at, turn in self.sleepers if not turn.done()]
            await self._let_run()
        self.now = end

    async def finish(self, work: Coroutine[Any, Any, None], within: float = 60) -> None:
        """Advance until ``work`` is done, which it must be within that many seconds."""
        task = asyncio.create_task(work)
        end = self.now + within
        while not task.done():
            assert self.now < end, f"not done within {within} s"
            await self.advance(0.1)
        await task

    async def _let_run(self) -> None:
        for _ in range(20):  # more steps than any turn of an elector has
            await asyncio.sleep(0)


class OneLease:
    """An API server that knows one Lease; that many calls to come fail as ``fail`` says."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.fail = 0.0
        self.forbidden = False

    def _answer(self) -> None:
        if self.fail > 0:
            self.fail -= 1
            raise KubeUnreachableError("no answer")
        if self.forbidden:
            raise ForbiddenError("leases is forbidden", 403)

    def _store(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return self.lease

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        self._answer()
        if self.lease is None:
            raise NotFoundError("no Lease", 404)
        return self.lease

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> dict[str, Any]:
        self._answer()
        if self.lease is not None:
            raise AlreadyExistsError("there is one", 409)
        return self._store(body)

    async def replace(self, resource: Resource, body: Mapping[str, Any], subresource: str | None = None) -> Any:
        self._answer()
        if self.lease is None:
            raise NotFoundError("no Lease", 404)
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ConflictError("changed", 409)
        return self._store(body)

    async def get_metadata(self, resource: Resource, namespace: str, name: str) -> Any:
        raise NotImplementedError

    async def list(self, resource: Resource, namespace: str | None = None) -> Any:
        raise NotImplementedError

    async def merge_patch(self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    async def apply(self, resource: Resource, body: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    @property
    def holder(self) -> str | None:
        return self.lease["spec"]["holderIdentity"] if self.lease else None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> OneLease:
    return OneLease()


def contender(server: OneLease, clock: Clock, identity: str) -> Elector:
    return Elector(server, LeaseSettings("n", "l", identity), clock=clock, sleep=clock.sleep)


@pytest.fixture
async def leader(server: OneLease, clock: Clock) -> Elector:
    """Holder of the Lease as ``a``; renews only where the test lets it."""
    elector = contender(server, clock, "a")
    await elector.acquire()
    return elector


@pytest.fixture
def other(server: OneLease, clock: Clock) -> Elector:
    return contender(server, clock, "b")


async def test_the_first_claims_a_lease_that_does_not_exist(server: OneLease, clock: Clock) -> None:
    elector = contender(server, clock, "a")
    assert not elector.deadline_ok()
    await elector.acquire()
    assert server.holder == "a"
    elector.check()


async def test_an_api_server_that_is_away_is_waited_for(server: OneLease, clock: Clock, other: Elector) -> None:
    server.fail = 3
    await clock.finish(other.acquire())
    assert clock.now == pytest.approx(1000 + 3 * 2, abs=0.11)


async def test_the_second_waits_until_the_first_has_run_out(
    server: OneLease, clock: Clock, leader: Elector, other: Elector
) -> None:
    await clock.finish(other.acquire())
    assert clock.now >= 1000 + 15
    assert server.holder == "b"
    with pytest.raises(LeadershipLostError, match=r"n/l is not ours or was not renewed for 9 s"):
        leader.check()


async def test_who_waits_says_for_whom_at_first_each_minute_and_when_it_is_somebody_else(
    server: OneLease, clock: Clock, leader: Elector, other: Elector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if "waiting for Lease" in record.getMessage()]

    holding, waiting = asyncio.create_task(leader.hold()), asyncio.create_task(other.acquire())
    await clock.advance(50)
    assert told() == ["waiting for Lease n/l, which a holds: one operator works, the others wait"]
    await clock.advance(30)
    assert len(told()) == 2
    assert server.lease is not None
    server.lease = {"metadata": {"resourceVersion": "999"}, "spec": {**server.lease["spec"], "holderIdentity": "c"}}
    await clock.advance(5)
    assert told()[2:] == ["waiting for Lease n/l, which c holds: one operator works, the others wait"]
    waiting.cancel()
    await asyncio.gather(holding, waiting, return_exceptions=True)


async def test_a_lease_that_may_not_be_read_is_told_once_a_minute_with_the_cure(
    server: OneLease, clock: Clock, other: Elector, caplog: pytest.LogCaptureFixture
) -> None:
    server.forbidden = True
    waiting = asyncio.create_task(other.acquire())
    await clock.advance(50)
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith("Lease n/l: leases is forbidden; name the Lease in resourceNames of the Role")
    assert other.forbidden_seconds() == pytest.approx(50, abs=0.1)
    await clock.advance(30)
    assert len(caplog.records) == 2
    server.forbidden = False
    await clock.advance(3)
    assert other.forbidden_seconds() == 0.0
    await waiting


async def test_each_attempt_is_a_sign_of_life_whether_it_succeeds_or_not(server: OneLease, clock: Clock) -> None:
    signs: list[float] = []
    settings = LeaseSettings("n", "l", "a")
    elector = Elector(server, settings, clock=clock, sleep=clock.sleep, alive=lambda: signs.append(clock.now))
    server.fail = 3
    await clock.finish(elector.acquire())
    assert len(signs) == 4


async def test_a_leader_has_overstayed_when_others_may_lead_and_never_before_or_after_it_led(
    clock: Clock, leader: Elector, other: Elector
) -> None:
    assert not other.overstayed()
    clock.now += 14.9
    assert not leader.overstayed()
    clock.now += 0.1
    assert leader.overstayed()


async def test_who_gave_the_lease_back_has_not_overstayed(clock: Clock, leader: Elector) -> None:
    await leader.release()
    clock.now += 60
    assert not leader.overstayed()


async def test_the_first_stops_writing_before_the_second_can_begin(
    clock: Clock, leader: Elector, other: Elector
) -> None:
    """And in time for its last request to be over."""
    waiting = asyncio.create_task(other.acquire())
    stopped = None
    while not waiting.done():
        await clock.advance(0.1)
        assert not (leader.deadline_ok() and other.deadline_ok())
        if stopped is None and not leader.deadline_ok():
            stopped = clock.now
    assert stopped is not None
    assert clock.now - stopped > 5


async def test_a_renewal_counts_from_when_it_was_sent(server: OneLease, clock: Clock, other: Elector) -> None:
    create = server.create

    async def slow(resource: Resource, body: Mapping[str, Any]) -> dict[str, Any]:
        clock.now += 4.0
        return await create(resource, body)

    server.create = slow  # type: ignore[method-assign] # the API server takes its time
    await other.acquire()
    clock.now = 1000 + 8.9
    assert other.deadline_ok()
    clock.now = 1000 + 9.0
    assert not other.deadline_ok()


async def test_a_leader_survives_failures_shorter_than_its_deadline(
    server: OneLease, clock: Clock, leader: Elector
) -> None:
    holding = asyncio.create_task(leader.hold())
    for _ in range(3):
        server.fail = 3
        await clock.advance(20)
        assert not holding.done()
        leader.check()
    holding.cancel()


async def test_a_leader_whom_nobody_answers_gives_up_at_the_deadline(
    server: OneLease, clock: Clock, leader: Elector
) -> None:
    server.fail = float("inf")
    with pytest.raises(LeadershipLostError):
        await clock.finish(leader.hold())
    assert 1000 + 9 <= clock.now < 1000 + 15


async def test_a_frozen_leader_knows_it_when_it_wakes_and_yields(
    server: OneLease, clock: Clock, leader: Elector, other: Elector
) -> None:
    await clock.finish(other.acquire())
    with pytest.raises(LeadershipLostError):
        leader.check()
    with pytest.raises(LeadershipLostError):
        await clock.finish(leader.hold())
    assert server.holder == "b"


async def test_a_lease_that_somebody_deleted_is_made_anew_by_its_holder(
    server: OneLease, clock: Clock, leader: Elector, other: Elector
) -> None:
    waiting, holding = asyncio.create_task(other.acquire()), asyncio.create_task(leader.hold())
    await clock.advance(3)
    server.lease = None
    await clock.advance(30)
    assert server.holder == "a"
    assert not waiting.done()
    assert not holding.done()
    waiting.cancel()
    holding.cancel()


async def test_a_lease_that_somebody_edited_is_read_again(server: OneLease, clock: Clock, leader: Elector) -> None:
    assert server.lease is not None
    server.lease["metadata"] = {**server.lease["metadata"], "resourceVersion": "999", "labels": {"x": "y"}}
    holding = asyncio.create_task(leader.hold())
    await clock.advance(30)
    leader.check()
    assert server.lease["metadata"]["labels"] == {"x": "y"}
    holding.cancel()


async def test_a_lease_that_was_taken_ends_leadership_at_the_next_renewal(
    server: OneLease, clock: Clock, leader: Elector
) -> None:
    assert server.lease is not None
    server.lease = {"metadata": {"resourceVersion": "999"}, "spec": {**server.lease["spec"], "holderIdentity": "b"}}
    with pytest.raises(LeadershipLostError):
        await clock.finish(leader.hold())
    assert clock.now <= 1000 + 2 * 2 + 0.2
    assert server.holder == "b"


async def test_a_released_lease_is_taken_at_once(
    server: OneLease, clock: Clock, leader: Elector, other: Elector
) -> None:
    await leader.release()
    with pytest.raises(LeadershipLostError):
        leader.check()
    await other.acquire()
    assert clock.now == 1000
    assert server.holder == "b"


async def test_who_is_not_surely_leader_releases_nothing(
    server: OneLease, clock: Clock, leader: Elector, other: Elector
) -> None:
    await other.release()
    assert server.holder == "a"
    clock.now += 9
    await leader.release()
    assert server.holder == "a"


async def test_a_release_that_fails_is_told_and_harms_nothing(
    server: OneLease, leader: Elector, caplog: pytest.LogCaptureFixture
) -> None:
    server.fail = 1
    await leader.release()
    assert "was not released: no answer" in caplog.text
