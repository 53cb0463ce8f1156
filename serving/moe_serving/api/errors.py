"""What a client is told when a request cannot be answered: an HTTP status and OpenAI's error object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_serving.errors import MoEServingError


class ApiError(MoEServingError):
    """Base of all errors with an HTTP status.

    Attributes:
        status: of the HTTP response.
        type: OpenAI's class of the error.
        code: OpenAI's word for the case, for programs; None where there is none.
        param: the field of the request that is to blame, if one is.
        headers: more headers of the response.
    """

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.headers: dict[str, str] = {}

    def body(self) -> dict[str, Any]:
        """The JSON of the response: ``{"error": {...}}``."""
        param = _encodable(self.param) if self.param is not None else None
        return {"error": {"message": _encodable(self.message), "type": self.type, "param": param, "code": self.code}}


class InvalidRequestError(ApiError):
    """The request itself is wrong."""

    status = 400
    type = "invalid_request_error"


class RequestTooLargeError(InvalidRequestError):
    """A body of more bytes than are read."""

    status = 413
    code = "request_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit >> 20} MiB; send less in one request")


class RequestTimeoutError(InvalidRequestError):
    """A body that does not come; the connection is closed, since the rest of it could not be told from a request."""

    status = 408
    code = "request_timeout"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"Connection": "close"}


class ContextLengthError(InvalidRequestError):
    """Prompt and completion do not fit the model's context."""

    code = "context_length_exceeded"


class AuthenticationError(InvalidRequestError):
    """No key, or one that nobody was given."""

    status = 401
    code = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"WWW-Authenticate": "Bearer"}


class NotFoundError(InvalidRequestError):
    """No such model, or no such route."""

    status = 404


class MethodError(InvalidRequestError):
    """A route that there is, asked by another method; ``headers`` say by which it can be."""

    status = 405

    def __init__(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"{method} {path}: this route takes {headers.get('Allow', 'another method')} only")
        self.headers = dict(headers)


class NotReadyError(ApiError):
    """The model cannot be asked yet, or not now; trying again later may help."""

    status = 503
    code = "not_ready"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(retry_after_s)}


class OverloadedError(ApiError):
    """More requests wait than the queue takes: the official client tries again after the pause asked for."""

    status = 429
    type = "rate_limit_exceeded"
    code = "queue_full"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(f"{message}; try again in {retry_after_s} s")
        self.headers = {"Retry-After": str(retry_after_s)}


class RemovedError(ApiError):
    """The deployment is being removed while the answer is under way."""

    status = 503
    code = "deployment_removed"

    def __init__(self) -> None:
        super().__init__("the deployment was removed before the answer was complete; what came so far is right")


class GenerationError(ApiError):
    """The answer was begun and could not be finished."""

    code = "generation_failed"


def _encodable(text: str) -> str:
    """JSON may hold half of a surrogate pair (``"\\ud800"``), which is no text: an error shows its escape instead."""
    return text.encode(errors="backslashreplace").decode()
