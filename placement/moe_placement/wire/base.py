"""The base of all wire types: strict about what is unknown, immutable once read."""

from pydantic import BaseModel, ConfigDict


class WireModel(BaseModel):
    """Unknown fields are errors: the two sides are released together, a stranger's field is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)
