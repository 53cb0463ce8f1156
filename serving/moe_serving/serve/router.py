"""How a call finds its replica: Serve's own choice, except where that waits for a process that does not answer.

Serve's router goes by the queue lengths that it remembers, and waits as long as it takes for a replica to accept a
call: one that is frozen keeps what it got until a health check ends it, and goes on getting more. Serve makes this
router in every process with a handle of the deployment: in its proxies for the api, in each api for attention.

Serve pickles this module by value, with copies of all that its names stand for, but of other modules: what is shared
with the rest of the process stands in ``avoidance``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ray.exceptions import ActorUnavailableError
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import PendingRequest, RunningReplica

from moe_serving.serve import avoidance

ACCEPT_S = 2.0
"""For a replica to accept a call, where there is another one. It takes milliseconds; a busy event loop may be late.
Doubles when a replica did not accept a call for so long, twice at most: slow ones get their calls in the end."""
_MOST_DOUBLINGS = 2


class PatientRouter(PowerOfTwoChoicesRequestRouter):
    """Chooses of two replicas the one with the shorter queue; none of ``avoidance.LOST`` while there are others."""

    def create_replica_wrapper(self, replica_info: Any) -> RunningReplica:
        asked = replica_info.replica_id
        return _BoundedReplica(replica_info, lambda: avoidance.has_others(asked, self.curr_replicas))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        ranks = await super().choose_replicas(candidate_replicas, pending_request)
        return avoidance.without_lost(ranks, candidate_replicas, avoidance.LOST)


class _BoundedReplica(RunningReplica):
    """A replica that has ``ACCEPT_S`` to accept a call. Then Serve's router takes it for unavailable: it forgets the
    queue length that it remembered, and chooses anew."""

    def __init__(self, replica_info: Any, has_others: Callable[[], bool]) -> None:
        super().__init__(replica_info)
        self._has_others = has_others
        self._doublings = 0

    def try_send_request(self, pr: PendingRequest, with_rejection: bool) -> Any:
        result = super().try_send_request(pr, with_rejection)
        if with_rejection:
            accept = result.get_rejection_response
            result.get_rejection_response = lambda: self._bounded(accept())  # type: ignore[method-assign]  # as said
        return result

    async def _bounded(self, accepting: Coroutine[Any, Any, Any]) -> Any:
        """
        Raises:
            ActorUnavailableError: no answer in time, and there are others.
        """
        doublings = self._doublings
        try:
            answer = await avoidance.accepted(accepting, ACCEPT_S * 2**doublings, self._has_others)
        except TimeoutError:
            # Of many that waited side by side the first one counts.
            self._doublings = max(self._doublings, min(doublings + 1, _MOST_DOUBLINGS))
            raise ActorUnavailableError(
                f"{self.replica_id} did not accept a call in time", self.actor_id.binary()
            ) from None
        self._doublings = 0
        return answer
