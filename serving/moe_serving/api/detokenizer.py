"""Token ids to text, piece by piece: a character whose bytes are spread over tokens appears when it is complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_REPLACEMENT = "\ufffd"
"""What decoders put in place of bytes that are no complete character (yet)."""

_PROMPT_TAIL = 6
"""Tokens of the prompt that are decoded along: decoders drop a space that begins a text, and the answer goes on one."""


class Detokenizer:
    """Text of one answer. Pieces joined are the text of prompt + answer less that of the prompt.

    Decodes a window that begins one piece before the new tokens, since decoders treat the first token of a text in
    their own way; the method is that of Hugging Face's text-generation-inference.
    """

    def __init__(self, decode: Decode, prompt_ids: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(prompt_ids[-_PROMPT_TAIL:])
        self._told = len(self._ids)
        self._known: int | None = None

    def push(self, token_ids: Sequence[int]) -> str:
        """Take new tokens; return the text they complete, which may be none."""
        self._ids.extend(token_ids)
        text = self._new_text()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        return self._tell(text)

    def flush(self) -> str:
        """The text still incomplete at the end of the answer."""
        return self._tell(self._new_text())

    def _new_text(self) -> str:
        if self._known is None:
            self._known = len(self._decode(self._ids[: self._told]))
        return self._decode(self._ids)[self._known :]

    def _tell(self, text: str) -> str:
        if text:
            del self._ids[: self._told]
            self._told, self._known = len(self._ids), None
        return text
