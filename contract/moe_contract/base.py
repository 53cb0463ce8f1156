"""The base of all wire types: strict about what is unknown, bounded in size, immutable once read.

The other side may be anybody: a number is within what can be counted and sent on as JSON, a text has an end. What a
model or a placement may measure at most is in ``sizes``.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

MOST_COUNTED = 2**52
"""Beyond any count there is, and exact in every reader of JSON, also after one is added."""
MOST_WORDS = 2048
"""Characters of a text for people; of a longer one the beginning is kept."""
MOST_NAME = 512
"""Characters of a name or an id."""


def _shortened(text: Any) -> Any:
    return text[: MOST_WORDS - 2] + " …" if isinstance(text, str) and len(text) > MOST_WORDS else text


Count = Annotated[int, Field(ge=0, le=MOST_COUNTED)]
Name = Annotated[str, Field(max_length=MOST_NAME)]
Words = Annotated[str, BeforeValidator(_shortened)]


class WireModel(BaseModel):
    """Unknown fields are errors: the two sides are released together, a stranger's field is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def in_words(error: ValidationError) -> str:
    """All that is wrong with a value, each with its field, in one line."""
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'config'}: {each['msg']}" for each in error.errors())
