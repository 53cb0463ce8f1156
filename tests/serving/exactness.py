"""Exactness (a) of the design: greedy tokens in float32 equal the whole model's, ties of the reference itself excused.

A difference is excused only when the reference is undecided at exactly that token: its two best logits, or the last
gate taken and the first one not taken of some layer, lie within 1e-5 of each other. Decoding then goes on behind the
reference's token. Excused sequences are counted; more than 0.5 % of them is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from reference import reference_model
from torch import Tensor

TIE = 1e-5
MAX_EXCUSED = 0.005

Tokens = tuple[int, ...]


@dataclass
class Tally:
    """Counts compared sequences over any number of configurations."""

    sequences: int = 0
    excused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([f"{self.sequences} sequences compared, {len(self.excused)} excused", *self.excused])

    def check(self) -> None:
        assert self.sequences, "nothing was compared"
        assert len(self.excused) <= MAX_EXCUSED * self.sequences, f"too many ties: {self}"


def compare(
    path: Path, prompt: Tokens, expected: Tokens, actual: Tokens, resume: Callable[[Tokens], Tokens], tally: Tally
) -> None:
    """Compare one answer with the reference's.

    Args:
        resume: continues the same answer behind the given tokens of it, to the same length as ``expected``.
    """
    tally.sequences += 1
    ties = []
    while (place := _first_difference(expected, actual)) is not None:
        tie = _tie(path, prompt + expected[:place])
        assert tie, f"token {place} differs without a tie: expected {expected[place:][:4]}, got {actual[place:][:4]}"
        ties.append(f"token {place} of prompt {prompt[:4]}…: {tie}")
        actual = expected[: place + 1] + resume(expected[: place + 1])
    if ties:
        tally.excused.append("; ".join(ties))


def _first_difference(expected: Tokens, actual: Tokens) -> int | None:
    if expected == actual:
        return None
    pairs = zip(expected, actual, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(actual)))


@torch.inference_mode()
def _tie(path: Path, tokens: Sequence[int]) -> str | None:
    """What the reference cannot decide after ``tokens``, in words."""
    output = reference_model(path)(input_ids=torch.tensor([list(tokens)]), output_router_logits=True)
    if (gap := _gap(output.logits[0, -1], 1)) < TIE:
        return f"the best two logits are {gap:.1e} apart"
    top_k = reference_model(path).config.num_experts_per_tok
    for layer, gates in enumerate(output.router_logits):
        if (gap := _gap(torch.softmax(gates[-1], dim=-1), top_k)) < TIE:
            return f"gates {top_k} and {top_k + 1} of MoE layer {layer} are {gap:.1e} apart"
    return None


def _gap(values: Tensor, taken: int) -> float:
    """Relative distance of the ``taken``-th largest value and the next one."""
    if taken >= len(values):
        return float("inf")
    best = values.double().topk(taken + 1).values
    return float((best[-2] - best[-1]) / best[-2:].abs().max())
