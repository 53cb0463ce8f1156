"""Stop strings: nothing of one is ever sent, however the tokens cut it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_FIRST_MARK = 0x100000
"""Of a plane of Unicode for private use."""


@dataclass(frozen=True, slots=True)
class StopTexts:
    """What to look for.

    Attributes:
        texts: stop strings; one in which special tokens stand is there twice, the second time with their marks.
        marks: by token id: what stands for a special token in ``texts``, since it has no text in an answer.
    """

    texts: tuple[str, ...] = ()
    marks: Mapping[int, str] = field(default_factory=dict)


def stop_texts(stops: Sequence[str], special: Mapping[str, int]) -> StopTexts:
    """Of a request's stop strings. One that is a special token as a whole ends an answer by its id, and is no text.

    Args:
        special: ids of the tokenizer's special tokens.
    """
    inside = [name for name in special if any(name in stop and name != stop for stop in stops)]
    inside.sort(key=len, reverse=True)
    marks = {name: chr(_FIRST_MARK + number) for number, name in enumerate(inside)}
    marked = [_replaced(stop, marks) for stop in stops if stop not in special]
    return StopTexts(
        (*stops, *(text for text in marked if text not in stops)), {special[n]: m for n, m in marks.items()}
    )


def _replaced(text: str, marks: Mapping[str, str]) -> str:
    for name, mark in marks.items():
        text = text.replace(name, mark)
    return text


class StopMatcher:
    """Looks for stop strings in text that comes in pieces.

    The stop string that is complete first counts, so the result does not depend on where the pieces are cut. Text that
    may be the beginning of a stop string is held back until it is clear.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next piece; return what may be sent, and whether a stop string was met (the end)."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [(begin + len(stop), begin) for stop in self._stops if (begin := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """What was held back, once it is clear that no more text follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop`` but not all of it."""
    begin = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while begin >= 0:
        if stop.startswith(text[begin:]):
            return len(text) - begin
        begin = text.find(stop[0], begin + 1)
    return 0
