"""The judge of all others: what has stopped living ends the process, which whoever started it then starts again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from moe_operator.errors import OperatorError
from moe_operator.leader.elector import FORBIDDEN_CURE
from moe_operator.telemetry.liveness import Liveness

LOOK_SECONDS = 1.0
GRACE_SECONDS = 4.0
"""Between the probe's first failure and the end: time to be seen, and for a process that was frozen to catch up."""
UNSEEN_SECONDS = 40.0
"""For which the watch may not deliver a state of an object that is known from elsewhere."""
REFUSED_SECONDS = 55.0
"""For which the API server may refuse who we are, credentials being loaded anew meanwhile, or refuse us our Lease."""
REFUSED_TOLD_SECONDS = 20.0
"""After which the probe says so."""

logger = logging.getLogger(__name__)


class StuckError(OperatorError):
    """A part of the process has stopped, and nothing here can mend that."""


class NoAccessError(OperatorError):
    """The API server refuses who we are, also with credentials that were loaded anew, or the right to lead."""


async def supervise(
    liveness: Liveness,
    loop_lives: Callable[[], None],
    refused_seconds: Callable[[], float],
    lease_forbidden_seconds: Callable[[], float],
    unseen: Callable[[float], str | None] = lambda seconds: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Look at everything each second until something is wrong.

    Args:
        loop_lives: told each time.
        refused_seconds: for how long the API server has refused the credentials.
        lease_forbidden_seconds: for how long it has refused to let them read or write the Lease.
        unseen: key of an object that the watch has not delivered for so many seconds.

    Raises:
        StuckError: something gives no sign of life.
        NoAccessError: the credentials are refused, or a right without which nothing can be done.
    """
    failing_since: float | None = None
    while True:
        loop_lives()
        _look_at_access(liveness, refused_seconds())
        _look_at_lease(liveness, lease_forbidden_seconds())
        stuck = liveness.overdue() or _look_at_events(liveness, unseen(UNSEEN_SECONDS))
        if stuck is None:
            failing_since = None
        elif failing_since is None:
            failing_since = clock()
            logger.warning("%s", stuck)
        elif clock() - failing_since > GRACE_SECONDS:
            raise StuckError(f"{stuck}: the process ends, to be started again")
        await asyncio.sleep(LOOK_SECONDS)


def _look_at_events(liveness: Liveness, unseen: str | None) -> str | None:
    problem = f"the watch has not delivered for {UNSEEN_SECONDS:.0f} s what is known from elsewhere" if unseen else None
    liveness.say("events", problem)
    return f"{problem}: {unseen}" if problem else None


def _look_at_access(liveness: Liveness, seconds: float) -> None:
    problem = f"the API server has refused the operator's credentials for {seconds:.0f} s"
    liveness.say("access", problem if seconds > REFUSED_TOLD_SECONDS else None)
    if seconds > REFUSED_SECONDS:
        raise NoAccessError(
            f"the API server has answered 401 Unauthorized for {seconds:.0f} s, also to credentials that were loaded "
            "anew: the token or certificate of the kubeconfig has ended or was revoked; replace it"
        )


def _look_at_lease(liveness: Liveness, seconds: float) -> None:
    problem = f"the API server has answered 403 Forbidden to the operator's asking for its Lease for {seconds:.0f} s"
    liveness.say("lease right", problem if seconds > REFUSED_TOLD_SECONDS else None)
    if seconds > REFUSED_SECONDS:
        raise NoAccessError(f"{problem}: {FORBIDDEN_CURE}")
