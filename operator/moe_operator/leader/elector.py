"""Takes, renews and gives back the Lease. Time is our own clock's; the API server's is never compared with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from moe_operator.errors import LeadershipLostError
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.errors import ForbiddenError, KubeError, NotFoundError
from moe_operator.kube.resources import LEASES
from moe_operator.leader.lease import LeaseRecord, LeaseSettings, Patience, claimed, released

TELL_SECONDS = 60.0
"""Between two lines of the log that say the same: for whom a standby waits, or why an attempt fails."""
FORBIDDEN_CURE = (
    "name the Lease in resourceNames of the Role moe-operator-leader (operator/manifests/20-operator-rights.yaml), or "
    "give --lease-name and --lease-namespace of one that it names"
)

logger = logging.getLogger(__name__)


def boot_clock() -> float:
    """Seconds since boot, those in which the machine slept included: a leader that slept is late."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Elector:
    """One contender for a Lease.

    ``acquire`` returns as leader; ``hold`` renews from then on and raises when leadership is lost, upon which the
    process must end; ``check`` is asked before each write; ``release`` ends it in peace.

    Args:
        api: without a fence, since the Lease is what makes a leader.
        alive: called at each attempt, of which each is bounded.
    """

    def __init__(
        self,
        api: KubeApi,
        settings: LeaseSettings,
        clock: Callable[[], float] = boot_clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._now = now
        self._alive = alive
        self._patience = Patience()
        self._lease: Json | None = None
        self._deadline = float("-inf")
        self._term_end = float("inf")
        self._holder = ""
        self._told: tuple[str, float] | None = None
        self._failure_told: tuple[str, float] | None = None
        self._forbidden_since: float | None = None

    def deadline_ok(self) -> bool:
        """Whether the last renewal is recent enough that nobody else can be leader."""
        return self._clock() < self._deadline

    def overstayed(self) -> bool:
        """Whether others may lead by now although this process still runs as leader; may be asked from any thread."""
        return self._clock() >= self._term_end

    def forbidden_seconds(self) -> float:
        """For how long the API server has answered 403 to all attempts at the Lease; 0 while it does not."""
        return 0.0 if self._forbidden_since is None else self._clock() - self._forbidden_since

    def check(self) -> None:
        """Before each write.

        Raises:
            LeadershipLostError: this process is not, or no longer surely, the leader.
        """
        if not self.deadline_ok():
            raise LeadershipLostError(
                f"Lease {self._where()} is not ours or was not renewed for {self._settings.renew_deadline:g} s: "
                "nothing more is written"
            )

    async def acquire(self) -> None:
        """Wait until this process is the leader, and say for whom; an API server that does not answer is waited for
        too."""
        while not await self._attempted():
            self._tell_holder()
            await self._sleep(self._settings.retry_period)
        logger.info("leader of %s as %s", self._where(), self._settings.identity)

    async def hold(self) -> None:
        """Renew until leadership is lost.

        Raises:
            LeadershipLostError: somebody else holds the Lease, or no renewal succeeded until the deadline.
        """
        while True:
            await self._sleep(self._settings.retry_period)
            if not await self._attempted():
                self.check()

    async def release(self) -> None:
        """Let the next leader start at once. Best effort: without it the Lease runs out by itself."""
        lease, self._lease = self._lease, None
        if lease is None or not self.deadline_ok():
            return
        self._deadline, self._term_end = float("-inf"), float("inf")
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                await self._api.replace(LEASES, released(lease, self._now()))
        except (KubeError, TimeoutError) as error:
            logger.warning("Lease %s was not released: %s", self._where(), error)

    async def _attempted(self) -> bool:
        """Claim or renew once, within the request's bound; False if it did not succeed."""
        self._alive()
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                claimed_it = await self._claim()
        except ForbiddenError as error:
            if self._forbidden_since is None:
                self._forbidden_since = self._clock()
            self._tell_failure(f"{error}; {FORBIDDEN_CURE}")
            return False
        except (KubeError, TimeoutError) as error:
            self._tell_failure(str(error) or "no answer in time")
            return False
        self._failure_told = self._forbidden_since = None
        return claimed_it

    async def _claim(self) -> bool:
        lease = self._lease or await self._read()
        if not self._may_claim(lease):
            self._deadline = float("-inf")
            self._holder = LeaseRecord.of(lease).holder if lease else ""
            return False
        sent = self._clock()
        self._lease = None  # read anew unless the write succeeds
        self._lease = await self._write(lease)
        self._deadline = sent + self._settings.renew_deadline
        self._term_end = sent + self._settings.duration
        return True

    def _tell_failure(self, why: str) -> None:
        """Why an attempt fails: when it begins to, when it is something else, and each minute."""
        now = self._clock()
        if self._failure_told and self._failure_told[0] == why and now - self._failure_told[1] < TELL_SECONDS:
            return
        self._failure_told = (why, now)
        logger.warning("Lease %s: %s", self._where(), why)

    def _tell_holder(self) -> None:
        """For whom this process waits: when it begins, when it is somebody else, and each minute."""
        holder, now = self._holder, self._clock()
        if not holder or (self._told and self._told[0] == holder and now - self._told[1] < TELL_SECONDS):
            return
        self._told = (holder, now)
        logger.info("waiting for Lease %s, which %s holds: one operator works, the others wait", self._where(), holder)

    def _may_claim(self, lease: Json | None) -> bool:
        if lease is None and self.deadline_ok():
            return True  # somebody deleted our Lease: others still wait for us
        record = LeaseRecord.of(lease) if lease else None
        return self._patience.may_claim(record, self._settings.identity, self._clock())

    async def _read(self) -> Json | None:
        try:
            return await self._api.get(LEASES, self._settings.namespace, self._settings.name)
        except NotFoundError:
            return None

    async def _write(self, lease: Json | None) -> Json:
        wanted = claimed(lease, self._settings, self._now())
        return await (self._api.replace(LEASES, wanted) if lease else self._api.create(LEASES, wanted))

    def _where(self) -> str:
        return f"{self._settings.namespace}/{self._settings.name}"
