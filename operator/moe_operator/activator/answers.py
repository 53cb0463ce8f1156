"""What the activator itself answers, in the shape of OpenAI's errors as the API has them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

RETRY_AFTER_SECONDS = 10


class Refusal(Exception):
    """A request that is not answered by a deployment.

    Attributes:
        status: of the HTTP response.
        code: for programs.
        message: for people: what was wrong, and the cure.
        headers: more headers of the response.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def body(self) -> str:
        """JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return json.dumps({"error": {"message": self.message, "type": kind, "param": None, "code": self.code}})


def no_key(shown: bool) -> Refusal:
    """Words of the API."""
    message = (
        "incorrect API key; ask whoever runs this server for one"
        if shown
        else "no API key: send it as 'Authorization: Bearer <key>'"
    )
    return Refusal(401, "invalid_api_key", message, {"WWW-Authenticate": "Bearer"})


def unknown_route(path: str) -> Refusal:
    return Refusal(404, "not_found", f"no deployment whose requests are held answers at {path[:256]!a}")


def ambiguous(path: str) -> Refusal:
    return Refusal(
        421,
        "misdirected_request",
        f"several deployments answer at {path[:256]!a} and take this key: give each a routePrefix of its own, or ask "
        "it by the name of its Service and namespace",
    )


def asleep() -> Refusal:
    return _later("asleep", "the deployment sleeps; a request below /v1 wakes it")


def full() -> Refusal:
    return _later("queue_full", "the deployment is being woken, and no more requests can be held meanwhile")


def not_in_time(seconds: float) -> Refusal:
    return _later("not_ready", f"the deployment is being woken, and did not serve within {seconds:.0f} s")


def in_a_circle() -> Refusal:
    return _later("not_ready", "the deployment serves, and its Service leads here for a moment more")


def too_large(limit: int) -> Refusal:
    message = f"the body is larger than {limit >> 20} MiB; send less in one request"
    return Refusal(413, "request_too_large", message)


def no_body() -> Refusal:
    message = "the body is not complete, and nothing more of it came; send the request again"
    return Refusal(408, "request_timeout", message)


def no_answer(why: str) -> Refusal:
    return Refusal(502, "bad_gateway", f"the deployment was woken and did not answer: {why}")


def silent(seconds: float) -> Refusal:
    message = f"the deployment was asked, and said nothing for {seconds:.0f} s; where an answer takes longer, stream it"
    return Refusal(504, "gateway_timeout", message)


def awake() -> Refusal:
    return _later(
        "awake", "the deployment serves, and takes its requests itself: ask its Service, which leads past here"
    )


def _later(code: str, message: str) -> Refusal:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Refusal(503, code, f"{message}; try again in {RETRY_AFTER_SECONDS} s", headers)
