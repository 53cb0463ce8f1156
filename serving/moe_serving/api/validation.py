"""What pydantic found wrong with a body, told as OpenAI tells it: one error that names field, value and cure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from moe_serving.api.errors import InvalidRequestError
from moe_serving.api.fields import UNSUPPORTED
from moe_serving.api.schemas import EMPTY_PROMPT

_LONGEST_VALUE = 80
_NEEDS_JSON = "the request needs a JSON body and the header 'Content-Type: application/json'"
_CODES = {UNSUPPORTED, EMPTY_PROMPT}
"""Types of our own validators that are codes as well."""
_WORDS = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_type": "must be an integer",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "string_type": "must be text",
    "too_long": "must have at most {max_length} items",
    "too_short": "must not be empty",
}
"""Pydantic's types of errors that our schemas can meet; it words them for programmers. A test looks for others."""


def invalid_body(errors: Sequence[Mapping[str, Any]]) -> InvalidRequestError:
    """The first of FastAPI's validation errors (``RequestValidationError.errors()``) as an answer to the client."""
    error = errors[0]
    kind, where = error["type"], [str(step) for step in error["loc"] if step != "body"]
    if kind == "json_invalid":
        place = f"{error['ctx']['error']}, at character {where[0]}"
        return InvalidRequestError(f"the body is not valid JSON: {place}", code="invalid_json")
    field = ".".join(where) or None
    if kind == "missing":
        return InvalidRequestError(f"{field}: is required" if field else _NEEDS_JSON, field, "missing_parameter")
    if isinstance(error["input"], bytes):
        return InvalidRequestError(_NEEDS_JSON, code="invalid_json")
    words = _WORDS[kind].format(**_plain(error.get("ctx", {}))) if kind in _WORDS else error["msg"]
    code = kind if kind in _CODES else "invalid_value"
    return InvalidRequestError(f"{field or 'the body'}: {words} (got {_shown(error['input'])})", field, code)


def unreadable_body() -> InvalidRequestError:
    """Of a body over which Python's own decoder failed in other ways than by finding wrong JSON."""
    return InvalidRequestError(
        "the body cannot be read: it must be JSON in UTF-8, not nested a thousand deep, its integers below 4300 digits",
        code="invalid_json",
    )


def _plain(bounds: Mapping[str, Any]) -> dict[str, Any]:
    """0 is not to be shown as 0.0."""
    whole = {name: int(value) for name, value in bounds.items() if isinstance(value, float) and value.is_integer()}
    return {**bounds, **whole}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
