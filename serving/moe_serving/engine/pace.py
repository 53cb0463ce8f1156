"""How long the tokens of answers follow one another. Pure: whoever asks says what time it is."""

from __future__ import annotations

from collections.abc import Callable, Collection

from moe_serving.engine.sequence import Sequence

StepListener = Callable[[int, int, float, int], None]
"""Told by the engine's thread of each step that came to its end: its rows, how many answers got a token in it and in
the step before, the seconds between the ends of the two, and how many tokens these answers and their prompts have."""


def nobody(rows: int, tokens: int, seconds: float, context: int) -> None:
    """A ``StepListener`` that does not listen."""


class Pace:
    """An answer that joins, or comes back after it had to leave, waits for other things than its step: its first token
    is not counted."""

    def __init__(self) -> None:
        self._grown: frozenset[Sequence] = frozenset()
        self._ended = 0.0

    def step(self, grown: Collection[Sequence], now: float) -> tuple[int, float, int]:
        """A step has ended.

        Args:
            grown: the answers that got a token.
            now: monotonic seconds.

        Returns:
            How many of them got one in the step before, the seconds since its end, and the tokens of their contexts.
        """
        again = [len(sequence.token_ids) for sequence in grown if sequence in self._grown]
        seconds, self._grown, self._ended = now - self._ended, frozenset(grown), now
        return len(again), seconds if again else 0.0, sum(again)

    def failed(self) -> None:
        """A step has failed, or the engine rests: nothing goes on where it was."""
        self._grown = frozenset()
