"""Whether the tokens of an answer are the unsharded model's, by the exactness rule of the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.serving.client import Ask, Tokens

TESTS = Path(__file__).resolve().parents[2] / "tests" / "serving"
"""Where reference and rule are."""

Resume = Callable[[Ask], Sequence[int]]
"""Has the server answer another request."""


def use_tests() -> None:
    """What the tests of the data plane share can be imported by its name from now on."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))


class Judge:
    """Compares answers with plain transformers on ``model``, each different one once.

    Attributes:
        excused: answers that differ where the reference itself is undecided, in words.
    """

    def __init__(self, model: Path, resume: Resume) -> None:
        use_tests()
        from exactness import Tally  # noqa: PLC0415 - imports torch, which only a judge needs

        self._tally = Tally()
        self._model = model
        self._resume = resume
        self._known: dict[tuple[Ask, Tokens], bool] = {}

    @property
    def excused(self) -> list[str]:
        return self._tally.excused

    def is_wrong(self, ask: Ask, tokens: Sequence[int]) -> bool:
        """Whether the answer differs by more than ties allow."""
        key = ask, tuple(tokens)
        if key not in self._known:
            self._known[key] = self._differs(*key)
        return self._known[key]

    def _differs(self, ask: Ask, actual: Tokens) -> bool:
        from exactness import compare  # noqa: PLC0415 - see above
        from reference import reference_greedy  # noqa: PLC0415

        (expected,) = reference_greedy(self._model, [ask.prompt], ask.max_tokens)

        def resume(told: Tokens) -> Tokens:
            rest = ask.max_tokens - len(told)
            return tuple(self._resume(Ask(ask.prompt + told, rest))) if rest else ()

        try:
            compare(self._model, ask.prompt, expected, actual, resume, self._tally)
        except AssertionError as difference:
            print(f"WRONG: {difference}")
            return True
        return False
