"""Rotary embeddings that a configuration asks for: known ones only, said before anything starts.

Without torch; how they are computed for packed sequences is in ``moe_serving.engine.rope``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.fields import ConfigFields

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
"""Values of ``rope_type`` whose tokens are proven to be transformers' own, packed and in chunks."""


def rope_fields(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The rotary fields of a ``config.json`` and their name there; the older one goes before, as in transformers."""
    for name in ("rope_scaling", "rope_parameters"):
        found = config.get(name)
        if found and isinstance(found, Mapping):
            return name, found
    return "rope_parameters", {}


def check_rope(fields: ConfigFields) -> None:
    """
    Raises:
        ModelError: ConfigInvalid or UnsupportedArchitecture, naming the field.
    """
    for name in ("rope_scaling", "rope_parameters"):
        value = fields.content.get(name)
        if value is not None and not isinstance(value, dict):
            raise fields.invalid(name, value, "it must be an object")
    name, rope = rope_fields(fields.content)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ROPE_TYPES:
        return
    if any(isinstance(value, dict) for value in rope.values()):
        raise fields.unsupported(name, "rotary embeddings that differ from layer to layer are not supported")
    raise ModelError(
        "UnsupportedArchitecture",
        f"{fields.file}: rope_type in {name} is {kind!r:.100}; supported are {', '.join(ROPE_TYPES)}",
    )
