"""The base of all wire types: strict about what is unknown, immutable once read."""

from pydantic import BaseModel, ConfigDict, ValidationError


class WireModel(BaseModel):
    """Unknown fields are errors: the two sides are released together, a stranger's field is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def in_words(error: ValidationError) -> str:
    """All that is wrong with a value, each with its field, in one line."""
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'config'}: {each['msg']}" for each in error.errors())
