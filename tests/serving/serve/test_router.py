"""How calls are sent to a replica, without a Ray: only its actor's methods are seen here."""

import asyncio
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

with warnings.catch_warnings(action="ignore"):  # Ray's own, about its use of pydantic
    from ray.serve._private.common import ReplicaQueueLengthInfo, RequestMetadata
    from ray.serve.request_router import PendingRequest

    from moe_serving.serve import router


@dataclass
class Actor:
    """Stands for a replica's actor; ``frozen``: it takes what is sent and answers nothing."""

    frozen: bool = False
    sent: list[str] = field(default_factory=list)
    _actor_id: Any = field(default_factory=lambda: SimpleNamespace(binary=lambda: bytes(16)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        call = SimpleNamespace(remote=lambda *args, **kwargs: self._take(name), options=lambda **options: call)
        return call

    def _take(self, name: str) -> asyncio.Future[Any]:
        self.sent.append(name)
        reply = asyncio.get_running_loop().create_future()
        if not self.frozen:
            reply.set_result(3)
        return reply


@pytest.fixture(autouse=True)
def cancelled(monkeypatch) -> list[object]:
    """Calls that were cancelled."""
    cancelled: list[object] = []
    monkeypatch.setattr("ray.cancel", cancelled.append)
    return cancelled


def replica(actor: Actor, others: bool) -> Any:
    info = SimpleNamespace(
        replica_id="a", multiplexed_model_ids=(), is_cross_language=False, get_actor_handle=lambda: actor
    )
    made = router._PatientReplica(info, lambda: others, lambda: 7)  # type: ignore[arg-type]
    made._get_replica_wrapper = lambda pr: made._actor_replica_wrapper  # it looks for a gRPC server otherwise
    return made


def call(streams: bool = False) -> PendingRequest:
    metadata = RequestMetadata(request_id="r", internal_request_id="i", is_streaming=streams)
    return PendingRequest(args=[], kwargs={}, metadata=metadata)


async def accepted(actor: Actor, others: bool) -> ReplicaQueueLengthInfo:
    result = replica(actor, others).try_send_request(call(), with_rejection=True)
    return await result.get_rejection_response()


async def test_only_streams_are_generators() -> None:
    """A process that was called would stand still at the end of one, with a caller that is frozen."""
    actor = Actor()
    assert await accepted(actor, others=True) == ReplicaQueueLengthInfo(accepted=True, num_ongoing_requests=3)
    assert actor.sent == ["handle_request", "get_num_ongoing_requests"]


async def test_the_only_replica_is_asked_for_nothing_more() -> None:
    actor = Actor(frozen=True)
    assert await accepted(actor, others=False) == ReplicaQueueLengthInfo(accepted=True, num_ongoing_requests=7)
    assert actor.sent == ["handle_request"]


async def test_a_frozen_replica_is_unavailable_and_its_call_cancelled(monkeypatch, cancelled) -> None:
    monkeypatch.setattr(router, "ACCEPT_S", 0.05)
    with pytest.raises(ActorUnavailableError):
        await accepted(Actor(frozen=True), others=True)
    await asyncio.sleep(0)
    assert len(cancelled) == 2, "the call and the question behind it"
