"""What a client is told when a call to an attention replica fails: our words, never a remote traceback."""

import warnings

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from moe_serving.api.errors import GenerationError, InvalidRequestError, OverloadedError
from moe_serving.engine.errors import EngineStoppedError, QueueFullError, RequestRefusedError
from moe_serving.errors import MoEServingError
from moe_serving.streams.errors import ReplicaLostError

with warnings.catch_warnings(action="ignore"):  # Ray's own, about its use of pydantic
    from ray.serve.config import RequestRouterConfig
    from ray.serve.exceptions import BackPressureError

    from moe_serving.serve.api import signed, translate
    from moe_serving.serve.avoidance import LOST


def remote(error: Exception) -> Exception:
    """As a replica's exception arrives: of both classes, with the traceback for its text."""
    return RayTaskError(
        "generate", 'Traceback (most recent call last):\n  File "x.py", line 1', error
    ).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (remote(RequestRefusedError("the prompt is empty")), InvalidRequestError, "the prompt is empty"),
        (remote(ReplicaLostError("it is stuck", "abc")), ReplicaLostError, "it is stuck"),
        (remote(EngineStoppedError("the engine is stopping")), ReplicaLostError, "the engine is stopping"),
        (remote(QueueFullError("more wait", 3)), OverloadedError, "more wait; try again in 3 s"),
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
    assert getattr(told, "replica", None) == ("abc" if "stuck" in message else None)


async def test_every_answer_says_who_gave_it() -> None:
    sent: list[dict[str, object]] = []

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"x"})

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await signed(app, "abc")({"type": "http"}, None, send)
    assert sent[0]["headers"] == [(b"a", b"b"), (b"x-moe-api", b"abc")]
    assert sent[1] == {"type": "http.response.body", "body": b"x"}


def test_the_router_that_serve_makes_knows_what_the_api_has_lost() -> None:
    """Serve pickles its module by value: objects of it would be copies that nobody tells anything."""
    config = RequestRouterConfig(request_router_class="moe_serving.serve.router:PatientRouter")
    router = cloudpickle.loads(config.get_serialized_request_router_cls())
    assert router.choose_replicas.__globals__["avoidance"].LOST is LOST
