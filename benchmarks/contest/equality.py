"""Whether contestants answer what the baseline does; what differs is judged by the rule of the exactness tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.contest.contestants import BASELINE
from benchmarks.contest.runs import Run, Tokens
from benchmarks.serving.client import Ask

EQUAL, WRONG = "equal", "WRONG"

IsWrong = Callable[[str, Ask, Tokens], bool]
"""Whether a contestant's answer differs from the unsharded model's by more than a tie of the model's own allows."""


def verdicts(prompts: Sequence[Tokens], runs: Mapping[str, Sequence[Run]], is_wrong: IsWrong) -> dict[str, str]:
    """In words, for each contestant: of all its runs. The baseline is judged too, where it does not repeat itself."""
    expected = runs[BASELINE][0].ids
    return {name: _verdict(name, prompts, expected, own, is_wrong) for name, own in runs.items()}


def _verdict(
    name: str, prompts: Sequence[Tokens], expected: Sequence[Tokens], own: Sequence[Run], is_wrong: IsWrong
) -> str:
    different = dict.fromkeys(_different(prompts, expected, own))  # each once
    wrong = sum(is_wrong(name, ask, answer) for ask, answer in different)
    if wrong:
        return f"{WRONG} in {wrong}"
    return f"{EQUAL} but for ties in {len(different)}" if different else EQUAL


def _different(
    prompts: Sequence[Tokens], expected: Sequence[Tokens], own: Sequence[Run]
) -> Iterator[tuple[Ask, Tokens]]:
    for run in own:
        for prompt, wanted, answer in zip(prompts, expected, run.ids, strict=True):
            if answer != wanted:
                yield Ask(prompt, len(wanted)), answer
