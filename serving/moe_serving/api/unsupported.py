"""Fields of OpenAI's schema that this server cannot honour: refused when they ask for something, never ignored."""

from __future__ import annotations

import json
from typing import Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

UNSUPPORTED = "unsupported_parameter"
"""Type of the validation error, and ``code`` of the answer."""


def only(*neutral: Any) -> AfterValidator:
    """Accept the values of a field that ask for nothing (None always does); refuse all others."""

    def check(value: Any) -> None:
        if value is None or any(value == known and type(value) is type(known) for known in neutral):
            return
        hint = f"; leave it out or send {json.dumps(neutral[0])}" if neutral else "; leave it out"
        raise PydanticCustomError(UNSUPPORTED, "this server does not support it{hint}", {"hint": hint})

    return AfterValidator(check)
