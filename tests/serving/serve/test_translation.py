"""What a client is told when a call to an attention replica fails: our words, never a remote traceback."""

import warnings

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from moe_serving.api.errors import GenerationError, InvalidRequestError
from moe_serving.engine.errors import EngineStoppedError, RequestRefusedError
from moe_serving.errors import MoEServingError
from moe_serving.streams.errors import ReplicaLostError

with warnings.catch_warnings(action="ignore"):  # Ray's own, about its use of pydantic
    from ray.serve.exceptions import BackPressureError

    from moe_serving.serve.api import translate


def remote(error: Exception) -> Exception:
    """As a replica's exception arrives: of both classes, with the traceback for its text."""
    return RayTaskError(
        "generate", 'Traceback (most recent call last):\n  File "x.py", line 1', error
    ).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (remote(RequestRefusedError("the prompt is empty")), InvalidRequestError, "the prompt is empty"),
        (remote(ReplicaLostError("the api hung up")), ReplicaLostError, "the api hung up"),
        (remote(EngineStoppedError("the engine is stopping")), ReplicaLostError, "the engine is stopping"),
        (remote(KeyError("secret")), GenerationError, "the attention replica failed; its log says more"),
        (ValueError("secret"), GenerationError, "the attention replica failed; its log says more"),
        (ActorDiedError(), ReplicaLostError, "ActorDiedError of an attention replica"),
        (
            BackPressureError(num_queued_requests=3, max_queued_requests=2),
            ReplicaLostError,
            "Serve turned the call away: Request dropped due to backpressure (num_queued_requests=3, "
            "max_queued_requests=2).",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failed_call_in_our_words(error: Exception, kind: type[MoEServingError], message: str) -> None:
    told = translate(error, "r-0")
    assert (type(told), str(told)) == (kind, message)
