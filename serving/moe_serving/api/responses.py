"""The JSON of answers: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from moe_serving.api.answer import Finish, Piece


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of tokens."""

    prompt: int
    completion: int

    def body(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


@dataclass(frozen=True, slots=True)
class Whole:
    """One finished answer."""

    index: int
    text: str
    finish: Finish
    token_ids: tuple[int, ...]


class Format(Protocol):
    """How one of the two endpoints words its answers."""

    def whole(self, answers: Sequence[Whole], usage: Usage) -> dict[str, Any]:
        """The response to a request that is not streamed."""
        ...

    def opening(self, index: int) -> dict[str, Any] | None:
        """The chunk that begins an answer, if the format has one."""
        ...

    def chunk(self, index: int, piece: Piece, usage: Usage | None = None) -> dict[str, Any]:
        """The chunk of one piece of text, with the counts so far where the client wants them."""
        ...

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The last chunk of a stream whose client asked for usage."""
        ...


@dataclass(frozen=True, slots=True)
class Header:
    """What every object of one response repeats.

    Attributes:
        fingerprint: changes with the checkpoint.
        usage_in_chunks: chunks carry ``usage: null`` then, as OpenAI's do.
        token_ids: choices carry them.
    """

    id: str
    model: str
    fingerprint: str
    usage_in_chunks: bool = False
    token_ids: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }

    def choice(self, index: int, content: dict[str, Any], finish: Finish | None, ids: Sequence[int]) -> dict[str, Any]:
        """One choice with its text or message in ``content``."""
        shown = {"token_ids": list(ids)} if self.token_ids else {}
        return {"index": index, **content, "logprobs": None, "finish_reason": finish, **shown}

    def chunk(self, kind: str, choices: list[dict[str, Any]], usage: Usage | None = None) -> dict[str, Any]:
        body = self.body(kind, choices)
        if self.usage_in_chunks:
            body["usage"] = usage.body() if usage else None
        return body


@dataclass(frozen=True, slots=True)
class CompletionFormat:
    """``/v1/completions``."""

    header: Header

    def whole(self, answers: Sequence[Whole], usage: Usage) -> dict[str, Any]:
        choices = [self.header.choice(a.index, {"text": a.text}, a.finish, a.token_ids) for a in answers]
        return self.header.body("text_completion", choices) | {"usage": usage.body()}

    def opening(self, index: int) -> None:
        return None

    def chunk(self, index: int, piece: Piece, usage: Usage | None = None) -> dict[str, Any]:
        choice = self.header.choice(index, {"text": piece.text}, piece.finish, piece.token_ids)
        return self.header.chunk("text_completion", [choice], usage)

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        return self.header.chunk("text_completion", [], usage)


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """``/v1/chat/completions``."""

    header: Header

    def whole(self, answers: Sequence[Whole], usage: Usage) -> dict[str, Any]:
        choices = [
            self.header.choice(a.index, {"message": self._message(a.text) | {"refusal": None}}, a.finish, a.token_ids)
            for a in answers
        ]
        return self.header.body("chat.completion", choices) | {"usage": usage.body()}

    def opening(self, index: int) -> dict[str, Any]:
        return self._chunk(index, self._message(""), Piece(""))

    def chunk(self, index: int, piece: Piece, usage: Usage | None = None) -> dict[str, Any]:
        return self._chunk(index, {"content": piece.text} if piece.text else {}, piece, usage)

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        return self.header.chunk("chat.completion.chunk", [], usage)

    def _message(self, text: str) -> dict[str, Any]:
        return {"role": "assistant", "content": text}

    def _chunk(self, index: int, delta: dict[str, Any], piece: Piece, usage: Usage | None = None) -> dict[str, Any]:
        choice = self.header.choice(index, {"delta": delta}, piece.finish, piece.token_ids)
        return self.header.chunk("chat.completion.chunk", [choice], usage)
