"""How a call finds its replica and is sent: as Serve does it, except where that waits for a process that is frozen.

Serve's router goes by the queue lengths that it remembers, and waits as long as it takes for a replica to accept a
call: one that is frozen keeps what it got until a health check ends it, and goes on getting more. And each call is the
call of a generator, whose first item says that it is accepted: at the end of a generator Ray has the whole event loop
of the process that was called wait until its caller has confirmed every item, so that nobody else is answered either
as long as the caller is frozen. Serve makes this router in every process with a handle of the deployment.

Serve pickles this module by value, with all that its names stand for, other modules excepted: what is shared with the
rest of the process stands in ``avoidance``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ray.exceptions import ActorUnavailableError
from ray.serve._private.common import ReplicaQueueLengthInfo
from ray.serve._private.replica_result import ReplicaResult
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
        return _PatientReplica(
            replica_info,
            lambda: avoidance.has_others(asked, self.curr_replicas),
            lambda: self.replica_queue_len_cache.get(asked) or 0,
        )

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        ranks = await super().choose_replicas(candidate_replicas, pending_request)
        return avoidance.without_lost(ranks, candidate_replicas, avoidance.LOST)


class _PatientReplica(RunningReplica):
    """A replica that has ``ACCEPT_S`` to accept a call. Then Serve's router takes it for unavailable: it forgets the
    queue length that it remembered, and chooses anew.

    Only calls that stream are generators. Any other one is an ordinary call of an actor, and accepted when the replica
    answers something else that was sent after it: calls begin in the order in which one caller sends them. Nothing is
    asked where there is no other replica to turn to.
    """

    def __init__(self, replica_info: Any, has_others: Callable[[], bool], queue_length: Callable[[], int]) -> None:
        super().__init__(replica_info)
        self._has_others = has_others
        self._queue_length = queue_length
        self._doublings = 0

    def try_send_request(self, pr: PendingRequest, with_rejection: bool) -> Any:
        streams = pr.metadata.is_streaming
        result = super().try_send_request(pr, with_rejection=with_rejection and streams)
        if with_rejection:
            accept = result.get_rejection_response if streams else lambda: self._begun(result)
            result.get_rejection_response = lambda: self._bounded(accept())  # type: ignore[method-assign]  # as said
        return result

    async def _begun(self, result: ReplicaResult) -> ReplicaQueueLengthInfo:
        """That ``result`` is being worked on, as far as can be told."""
        if not self._has_others():
            return ReplicaQueueLengthInfo(accepted=True, num_ongoing_requests=self._queue_length())
        try:
            length = await self.get_queue_len(deadline_s=ACCEPT_S)
        except BaseException:
            result.cancel()  # type: ignore[no-untyped-call]  # Ray's own lack
            raise
        return ReplicaQueueLengthInfo(accepted=True, num_ongoing_requests=length)

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
