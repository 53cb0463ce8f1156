"""The files of a checkpoint that hold a shard's experts: those that are not on this node are fetched when one is read.

Files are brought by one thread, the loader's; all else may be asked from any.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Protocol

from moe_serving.checkpoint import Checkpoint
from moe_serving.experts.description import ExpertKey

Heard = Callable[[int, int], None]
"""Bytes that are there, and bytes that are to be."""


class Bring(Protocol):
    """``fetching.fetch.bring`` of one model."""

    def __call__(self, files: Collection[Path], expected: Collection[Path], heard: Heard) -> None: ...


class ExpertFiles:
    """See the module.

    Attributes:
        fetched: bytes on this node of those that are to be, as last told; None before that.
    """

    def __init__(self, checkpoint: Checkpoint, bring: Bring) -> None:
        self.fetched: tuple[int, int] | None = None
        self._checkpoint = checkpoint
        self._bring = bring
        self._away = _away(checkpoint.files)

    @property
    def all_there(self) -> bool:
        """Whether nothing is left to be fetched, whoever did it, when it was looked last."""
        return not self._away

    def lacking(self, keys: Iterable[ExpertKey]) -> dict[ExpertKey, frozenset[Path]]:
        """Of those of ``keys`` that cannot be read yet, the files that were not there when it was looked last."""
        if not self._away:
            return {}
        files = {key: self._checkpoint.expert_files(*key) & self._away for key in keys}
        return {key: away for key, away in files.items() if away}

    def bring(self, key: ExpertKey, expected: Iterable[ExpertKey], heard: Heard) -> None:
        """Have the files of one expert.

        Args:
            expected: experts that will be read next.
            heard: is told how much is there; what it raises ends it.

        Raises:
            ModelError: a file cannot be had.
        """
        wanted = self.lacking([key]).get(key, frozenset())
        later = self.lacking(expected).values()

        def hear(done: int, total: int) -> None:
            self.fetched = done, total
            heard(done, total)

        try:
            self._bring(wanted, frozenset().union(*later), hear)
        finally:
            self._away = _away(self._away)


def _away(files: Iterable[Path]) -> frozenset[Path]:
    return frozenset(file for file in files if not file.exists())
