"""Bytes of the weights that a checkpoint's digest is made of: read in well under a second, also over a network.

Where files are still to be fetched, their samples lie beside them in one file, in the order of ``places``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.tensors import TensorIndex

SAMPLES_FILE = ".samples"

_SAMPLES, _SAMPLE_BYTES = 128, 1024
"""Tensors looked into, and how much of each."""


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes ``[begin, end)`` of a file."""

    file: Path
    begin: int
    end: int


def places(tensors: TensorIndex) -> tuple[Place, ...]:
    """Of the samples: from the middle of tensors at equal distances in the order of their names."""
    names = sorted(tensors)
    count = min(_SAMPLES, len(names))
    found = []
    for number in range(count):
        entry = tensors[names[number * len(names) // count]]
        begin = max(entry.begin, (entry.begin + entry.end - _SAMPLE_BYTES) // 2)
        found.append(Place(entry.file, begin, begin + min(_SAMPLE_BYTES, entry.end - entry.begin)))
    return tuple(found)


def read_samples(path: Path, tensors: TensorIndex) -> Iterator[bytes]:
    """Of the checkpoint at ``path``, each from its file, or from ``SAMPLES_FILE`` where that is still to be fetched.

    Raises:
        ModelError: WeightsMissing, ``SAMPLES_FILE`` is cut short.
        OSError: there is neither.
    """
    begin = 0
    for place in places(tensors):
        size = place.end - place.begin
        if place.file.exists():
            yield read_place(place)
        else:
            sample = read_place(Place(path / SAMPLES_FILE, begin, begin + size))
            if len(sample) != size:
                raise ModelError("WeightsMissing", f"{path / SAMPLES_FILE} is cut short: remove {path}")
            yield sample
        begin += size


def read_place(place: Place) -> bytes:
    """What lies there; less where the file is shorter."""
    with place.file.open("rb") as file:
        file.seek(place.begin)
        return file.read(place.end - place.begin)
