"""Whether Serve is removing our application. No replica is told: it gets no more requests, and is killed in the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

SHUTDOWN_S = 30.0
"""How long answers may go on in a process that is to end; then Serve kills it, and another one goes on with them."""
ANSWERS_S = 10.0
"""How long they go on once all of the application is being removed and there is no other: clients are to be told before
Serve kills the api, and some seconds of ``SHUTDOWN_S`` may have passed before it notices."""
_PERIOD_S = 0.5

logger = logging.getLogger(__name__)


async def wait_for_removal(application: str, suspected: Callable[[], bool]) -> None:
    """Return once Serve removes ``application``.

    Args:
        suspected: only while true is Serve's controller asked, which has better to do than to answer every api.
    """
    while True:
        if suspected() and await asyncio.to_thread(_is_being_removed, application):
            return
        await asyncio.sleep(_PERIOD_S)


def _is_being_removed(application: str) -> bool:
    try:
        ours = serve.status().applications.get(application)
    except (RayError, RayServeException) as error:
        logger.warning("Serve's controller does not say whether %s is being removed: %s", application, error)
        return False
    # One that is missing proves nothing: a controller that has just restarted knows none.
    return ours is not None and ours.status == ApplicationStatus.DELETING
