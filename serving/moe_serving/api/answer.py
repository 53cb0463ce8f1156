"""One answer on its way from tokens to text: detokenizer, stop strings and the count of tokens together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moe_serving.api.detokenizer import Decode, Detokenizer
from moe_serving.api.errors import GenerationError
from moe_serving.api.stop import StopMatcher, StopTexts
from moe_serving.engine.request import TokenEvent

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a client may be told next.

    Attributes:
        text: may be empty, with the last piece.
        finish: the reason if the answer ends with it.
        token_ids: computed since the previous piece; their text may still be held back, or be cut off by a stop string.
    """

    text: str
    finish: Finish | None = None
    token_ids: tuple[int, ...] = ()


class Answer:
    """Turns the events of one request into pieces of text. It outlives the replica that answers."""

    def __init__(self, decode: Decode, prompt_ids: Sequence[int], stops: StopTexts) -> None:
        self._detokenizer = Detokenizer(decode, prompt_ids)
        self._stops = StopMatcher(stops.texts)
        self._marks = stops.marks
        self._unmark = dict.fromkeys(map(ord, stops.marks.values()))
        self._untold: list[int] = []
        self.tokens = 0

    def push(self, event: TokenEvent) -> Piece | None:
        """Take an event; None while there is nothing to tell. The piece whose ``finish`` is set is the last one.

        Raises:
            GenerationError: the engine gave up; the message is its own.
        """
        if event.finish_reason == "error":
            raise GenerationError(event.error or "the engine gave no reason")
        text, finish = self._read(event.token_ids, event.finish_reason)
        text = text.translate(self._unmark) if self._unmark else text
        if not text and finish is None:
            return None
        piece = Piece(text, finish, tuple(self._untold))
        self._untold.clear()
        return piece

    def _read(self, token_ids: Sequence[int], finish: Finish | None) -> tuple[str, Finish | None]:
        text = end = ""
        for place, token in enumerate(token_ids, start=1):
            # One by one: those behind a stop string do not count, however many came with it.
            self.tokens += 1
            self._untold.append(token)
            if finish == "stop" and place == len(token_ids):
                end = self._marks.get(token, "")  # the end-of-sequence token: counted, but no text
                break
            more, stopped = self._stops.push(self._detokenizer.push((token,)) + self._marks.get(token, ""))
            text += more
            if stopped:
                return text, "stop"
        if finish is None:
            return text, None
        rest, stopped = self._stops.push(self._detokenizer.flush() + end)
        if stopped:
            return text + rest, "stop"
        return text + rest + self._stops.flush(), finish
