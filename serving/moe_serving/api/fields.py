"""What a field of a request may be, in the words of its schema: text, a hint, or something this server cannot do."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

UNSUPPORTED = "unsupported_parameter"
"""Type of the validation error, and ``code`` of the answer."""


class Only:
    """Mark of a field that this server cannot honour: values that ask for nothing are taken (None always is), all
    others are refused by the field's name.
    """

    def __init__(self, *neutral: Any) -> None:
        self.neutral = neutral

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: Any) -> Any:
        if value is None or any(_equal(value, known) for known in self.neutral):
            return value
        hint = f"; leave it out or send {json.dumps(self.neutral[0])}" if self.neutral else "; leave it out"
        raise PydanticCustomError(UNSUPPORTED, "this server does not support it{hint}", {"hint": hint})


class Hint:
    """Mark of a field that changes no answer: its value is checked and has no effect."""


def _equal(value: Any, known: Any) -> bool:
    """1 and 1.0 are one number of JSON; true is none."""
    return value == known and isinstance(value, bool) == isinstance(known, bool)


def _is_text(value: str) -> str:
    """JSON may hold half of a surrogate pair (``"\\ud800"``), which no tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("no_text", "must be text, and holds half of a surrogate pair") from None
    return value


Text = Annotated[str, AfterValidator(_is_text)]


def one_of(words: str) -> WrapValidator:
    """For a union: one error that says in words what is allowed, instead of one for each member."""

    def check(value: Any, members: ValidatorFunctionWrapHandler) -> Any:
        try:
            return members(value)
        except ValidationError:
            raise PydanticCustomError("one_of", "must be {words}", {"words": words}) from None

    return WrapValidator(check)


def json_at_most(characters: int) -> AfterValidator:
    """For data that is handed on as it is: bounds its length as JSON."""

    def check(value: Any) -> Any:
        text = _is_text(json.dumps(value, ensure_ascii=False))
        if len(text) > characters:
            raise PydanticCustomError("too_large", "must be at most {limit} characters of JSON", {"limit": characters})
        return value

    return AfterValidator(check)
