"""Text as windows of tokens, half of them to find thresholds by, and half to measure them on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe_serving.adaptive.errors import AdaptiveRoutingError
from moe_serving.api.tokenizer import ModelTokenizer

LEAST_WINDOWS = 64
"""Of both halves together: an interval of the mean of fewer than 32 says little."""
STEP_ROWS = 16
"""Windows that are computed together: their tokens at one place are like the rows of a step of decoding."""
_MOST_BYTES = 256 << 20

Windows = NDArray[np.int64]
"""Token ids ``[windows, tokens]``."""


@dataclass(frozen=True, slots=True, eq=False)
class Halves:
    """Attributes:
    calibration, held_out: every second window each, so that both have all that the text has of.
    digest: of the text.
    """

    calibration: Windows
    held_out: Windows
    digest: str


def read_texts(paths: Sequence[Path]) -> list[str]:
    """
    Raises:
        AdaptiveRoutingError: one cannot be read, or all together are too large.
    """
    texts, left = [], _MOST_BYTES
    for path in paths:
        try:
            with path.open("rb") as file:
                raw = file.read(left + 1)
        except OSError as error:
            raise AdaptiveRoutingError(f"--text {path}: {error.strerror}; give files of text") from error
        left -= len(raw)
        if left < 0:
            raise AdaptiveRoutingError(f"--text {path}: more than {_MOST_BYTES >> 20} MiB in all; a few MiB are plenty")
        texts.append(raw.decode("utf-8", errors="replace"))
    return texts


def halves(texts: Sequence[str], tokenizer: ModelTokenizer, window: int, most_tokens: int) -> Halves:
    """Each window begins as the model expects a text to begin.

    Args:
        window: tokens of each.
        most_tokens: of all; of more text windows at equal distances are taken.

    Raises:
        AdaptiveRoutingError: the text is too short.
    """
    begin = _beginning(tokenizer)
    body = window - len(begin)
    ids = np.array([token for text in texts for token in tokenizer.encode(text, special=False)], dtype=np.int64)
    found, least = len(ids) // body, LEAST_WINDOWS * body
    if found < LEAST_WINDOWS:
        raise AdaptiveRoutingError(
            f"--text: {len(ids)} tokens are too short to calibrate on; give at least {least} ({LEAST_WINDOWS} windows "
            f"of --window {window})"
        )
    count = min(found, max(LEAST_WINDOWS, most_tokens // window))
    bodies = ids[: found * body].reshape(found, body)[np.arange(count) * found // count]
    windows = np.concatenate([np.tile(np.array(begin, dtype=np.int64), (count, 1)), bodies], axis=1)
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return Halves(windows[::2], windows[1::2], f"sha256:{digest}")


def _beginning(tokenizer: ModelTokenizer) -> list[int]:
    """Special tokens that the model expects before a text."""
    plain, whole = tokenizer.encode("a", special=False), tokenizer.encode("a")
    places = [at for at in range(len(whole)) if whole[at : at + len(plain)] == plain]
    return whole[: places[0]] if places else []
