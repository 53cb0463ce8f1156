"""How long a sequence a model was made for: what vLLM and SGLang take it for too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from moe_serving.checkpoint.rope import rope_fields


def longest_context(config: Mapping[str, Any], positions: int) -> int:
    """Tokens of the longest sequence.

    Model cards say how to go on beyond the length of the training: add YaRN's (or linear, or dynamic) scaling by a
    factor, and leave ``max_position_embeddings`` as it is. Where that field has the longer length already, it holds.
    Other scalings (llama3, longrope) have theirs in it.

    Args:
        config: ``config.json``.
        positions: its ``max_position_embeddings``.
    """
    _, scaling = rope_fields(config)
    kind = scaling.get("rope_type", scaling.get("type"))
    factor = scaling.get("factor")
    if kind not in ("yarn", "linear", "dynamic") or not _is_number(factor):
        return positions
    trained = scaling.get("original_max_position_embeddings") if kind == "yarn" else None
    # One outside of the scaling's own fields goes before, as it does in transformers.
    trained = config.get("original_max_position_embeddings", trained) if kind == "yarn" else None
    return max(positions, int(factor * (trained if _is_number(trained) else positions)))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
