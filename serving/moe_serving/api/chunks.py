"""Server-sent events of pieces of text. What all chunks of an answer share is put into words once."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from json.encoder import encode_basestring as quoted
from typing import Any

from moe_serving.api.answer import Piece
from moe_serving.api.responses import Format, Usage

DONE = "data: [DONE]\n\n"
_LINE_ENDS = str.maketrans({"\u0085": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})
"""JSON may hold them raw; clients that read lines as Python's ``splitlines`` does would cut an event there."""
_TEXT = secrets.token_hex(16)
_TOKEN = secrets.randbits(128) | 1 << 127
"""What stands for text and token ids of a piece. Random, so that no name of a model can have them in it."""


def event(body: dict[str, Any]) -> str:
    """One event with a body of JSON."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
    return f"data: {text}\n\n"


class Chunks:
    """The events of one answer, as ``words`` has them.

    Most differ only in text and token ids. Those are put between what stays the same, which is cut out of a chunk that
    ``words`` has made: so there is one place that says what a chunk looks like.
    """

    def __init__(self, words: Format, index: int) -> None:
        self._words = words
        self._index = index
        self._before, _, rest = event(words.chunk(index, Piece(_TEXT, None, (_TOKEN,)))).partition(f'"{_TEXT}"')
        self._between, self._shows_ids, self._behind = rest.partition(str(_TOKEN))

    def events(self, piece: Piece, usage: Usage | None = None) -> str:
        """Of one piece, with the counts so far where the client wants them.

        The reason why an answer ended has a chunk of its own: strict clients read no text where there is one.
        """
        if piece.finish is not None:
            return "".join(event(self._words.chunk(self._index, each, usage)) for each in _apart(piece))
        if usage is not None or not piece.text:
            return event(self._words.chunk(self._index, piece, usage))
        text = quoted(piece.text)
        if not text.isascii():
            text = text.translate(_LINE_ENDS)
        ids = _listed(piece.token_ids) if self._shows_ids else ""
        return f"{self._before}{text}{self._between}{ids}{self._behind}"


def _apart(piece: Piece) -> tuple[Piece, ...]:
    return (replace(piece, finish=None), Piece("", piece.finish)) if piece.text else (piece,)


def _listed(ids: Sequence[int]) -> str:
    return ",".join(map(str, ids))
