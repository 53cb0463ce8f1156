"""Which of the files that are kept somewhere make a checkpoint, as ``moe_serving.checkpoint`` and transformers read it.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from moe_serving.checkpoint.tensors import INDEX_FILE, SINGLE_FILE

_SMALL = (".json", ".jinja", ".model", ".txt")
"""Configuration, tokenizer and chat template: all such files at the top."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as whoever keeps it tells of it; ``sha256`` is None where it is not told."""

    name: str
    size: int
    sha256: str | None


def first_files(names: Collection[str]) -> tuple[str, ...]:
    """All but weights; the index of these among them."""
    return tuple(sorted(name for name in names if "/" not in name and name.endswith(_SMALL)))


def weight_files(names: Collection[str], index: Mapping[str, str]) -> tuple[str, ...]:
    """The files with weights: a single one before those that an index names, as transformers has it.

    Args:
        index: the file of each tensor by ``model.safetensors.index.json``; empty where there is none.
    """
    if SINGLE_FILE in names:
        return (SINGLE_FILE,)
    return tuple(sorted(set(index.values())))


def has_index(names: Collection[str]) -> bool:
    """Whether an index says which files hold the weights."""
    return SINGLE_FILE not in names and INDEX_FILE in names
