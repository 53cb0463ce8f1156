"""``generation_config.json``: what a model's makers say of how to generate with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moe_serving.checkpoint.errors import ModelError

_MAX_BYTES = 1 << 20


def read_generation_config(path: Path) -> dict[str, Any]:
    """The content of the file in a checkpoint's directory; empty where there is none.

    Raises:
        ModelError: ConfigInvalid, it is no JSON object.
    """
    file = path / "generation_config.json"
    if not file.is_file():
        return {}
    try:
        with file.open("rb") as opened:
            content = json.loads(opened.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            "ConfigInvalid", f"{file} cannot be read as JSON: {error}; copy the checkpoint again"
        ) from None
    if not isinstance(content, dict):
        raise ModelError("ConfigInvalid", f"{file} holds a {type(content).__name__}, not an object")
    return content
