"""Prompts of one kind of text that every machine with Python has: the standard library's sources."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from benchmarks.rebalancing.models import TINY

_CHARACTERS = 4000
"""Of a file: enough for a prompt from the middle of it, behind what all files begin with."""


def prompts(count: int, tokens: int, seed: int = 0) -> list[tuple[int, ...]]:
    """``count`` different files' text, ``tokens`` ids of ``models/tiny`` each.

    Raises:
        ValueError: there are not so many files.
    """
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in root.rglob("*.py") if not {"site-packages", "test", "tests"} & set(path.parts))
    found: list[tuple[int, ...]] = []
    for number in np.random.default_rng(seed).permutation(len(files)):
        ids = tokenizer.encode(files[number].read_text(errors="replace")[:_CHARACTERS]).ids
        begin = (len(ids) - tokens) // 2
        if begin >= 0:
            found.append(tuple(ids[begin : begin + tokens]))
        if len(found) == count:
            return found
    raise ValueError(f"{root} has {len(found)} files of {tokens} tokens, {count} are wanted")
