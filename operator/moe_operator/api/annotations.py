"""What the annotations of a MoEDeployment ask for, read one way by the operator and by ``kubectl moe``. Pure."""

from __future__ import annotations

from collections.abc import Iterable

MOST_NAMED, LONGEST_WORD = 1024, 16
"""Entries of ``ANNOTATION_DRAIN`` that are read, and characters of each."""


def is_paused(pause: str | None) -> bool:
    """Whether ``ANNOTATION_PAUSE`` stops the operator; None where it is not there."""
    return pause not in (None, "false")


def drain_words(drain: str) -> list[str]:
    """The entries of ``ANNOTATION_DRAIN``; what is beyond as many as are read is the last of them."""
    return [word.strip() for word in drain.split(",", MOST_NAMED)] if drain.strip() else []


def shard_indices(words: Iterable[str]) -> dict[str, int]:
    """Those of the entries that are an index, and which."""
    return {word: int(word) for word in words if word.isascii() and word.isdecimal() and len(word) <= LONGEST_WORD}
