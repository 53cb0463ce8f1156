"""What pydantic found wrong with a body, told as OpenAI tells it: one error that names field, value and cure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from moe_serving.api.errors import InvalidRequestError
from moe_serving.api.schemas import EMPTY_PROMPT
from moe_serving.api.unsupported import UNSUPPORTED

_LONGEST_VALUE = 80
_NEEDS_JSON = "the request needs a JSON body and the header 'Content-Type: application/json'"
_CODES = {UNSUPPORTED, EMPTY_PROMPT}
"""Types of our own validators that are codes as well."""


def invalid_body(errors: Sequence[Mapping[str, Any]]) -> InvalidRequestError:
    """The first of FastAPI's validation errors (``RequestValidationError.errors()``) as an answer to the client."""
    error = errors[0]
    kind, where = error["type"], [str(step) for step in error["loc"] if step != "body"]
    if kind == "json_invalid":
        return InvalidRequestError(f"the body is not valid JSON: {error['ctx']['error']}", code="invalid_json")
    field = ".".join(where) or None
    if kind == "extra_forbidden":
        return InvalidRequestError(f"{field}: this server knows no such parameter; leave it out", field, UNSUPPORTED)
    if kind == "missing":
        message = (
            f"{field}: is required" if field else "the request needs a JSON body with Content-Type application/json"
        )
        return InvalidRequestError(message, field, "missing_parameter")
    if isinstance(error["input"], bytes):
        return InvalidRequestError(_NEEDS_JSON, code="invalid_json")
    message = f"{error['msg']} (got {_shown(error['input'])})"
    code = kind if kind in _CODES else "invalid_value"
    return InvalidRequestError(f"{field}: {message}" if field else message, field, code)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
