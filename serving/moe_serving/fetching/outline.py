"""Outlines of files that are still to be fetched: their headers, and the samples that the digest is made of.

With them ``checkpoint.Checkpoint`` opens a directory whose weights are not there, and finds the same digest. They are
parts of files and so have no checksum: a file that has come is compared with what was told of it, and a digest with
those of other processes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.samples import SAMPLES_FILE, Place, places, read_place
from moe_serving.checkpoint.tensors import INDEX_FILE, TensorIndex, header_length, outline_of, read_header
from moe_serving.fetching.files import RemoteFile

Read = Callable[[RemoteFile, int, int], bytes | None]
"""Bytes ``[begin, end)`` of a file; None where no parts can be had of it."""

AT_ONCE = 8
"""Requests under way: each takes a while, and brings little."""
_HEAD_BYTES = 1 << 16
"""Asked for first: most headers are smaller."""
_RENEWED = ".renewed"
"""Folder of outlines that are on their way beside those in use."""
_PAUSES = (0.5, 1.0)
"""Seconds between tries of one request: of some hundred, one that fails must not end them all."""

again_after = time.sleep


def fetch_outlines(read: Read, weights: Sequence[RemoteFile], directory: Path) -> bool:
    """Into ``directory``, of those of its weights that are not there; False where parts of files cannot be had.

    Raises:
        ModelError: WeightsMissing or WeightsTruncated, by the files' own names; what ``read`` raises.
    """
    read = persistent(read)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        if not all(list(pool.map(lambda file: _fetch_head(read, file, directory), weights))):
            return False
        by_path = {directory / file.name: file for file in weights}

        def sample(place: Place) -> bytes | None:
            size = place.end - place.begin
            return read(by_path[place.file], place.begin, place.end) if size else b""

        samples = list(pool.map(sample, places(TensorIndex(directory))))
    whole = [each for each in samples if each is not None]
    if len(whole) != len(samples):
        return False
    _write(directory / SAMPLES_FILE, b"".join(whole))
    return True


def renew_outlines(read: Read, weights: Sequence[RemoteFile], directory: Path) -> bool:
    """As ``fetch_outlines``, also where there are outlines: they stay in use until the others are whole, and where
    those cannot be had.

    Of several files some may be the former ones where this is cut short: with them the digest is another one than
    anybody's, and they are asked for again.
    """
    aside = directory / _RENEWED
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        shutil.copyfile(directory / INDEX_FILE, aside / INDEX_FILE)
        if not fetch_outlines(read, weights, aside):
            return False
        for file in weights:
            if not (directory / file.name).exists():
                outline = outline_of(directory / file.name)
                outline.parent.mkdir(parents=True, exist_ok=True)
                outline_of(aside / file.name).replace(outline)
        (aside / SAMPLES_FILE).replace(directory / SAMPLES_FILE)
        return True
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def fits_outline(directory: Path, name: str) -> bool:
    """Whether a file that is there has the header and the samples that were told before, if they were."""
    file = directory / name
    outline = outline_of(file)
    if not outline.exists():
        return True
    told = outline.read_bytes()
    with file.open("rb") as stream:
        return stream.read(len(told)) == told and _has_samples(directory, file)


def remove_outlines(directory: Path, weights: Sequence[RemoteFile]) -> None:
    """All of them; first what says that they are there, in case this is cut short."""
    (directory / SAMPLES_FILE).unlink(missing_ok=True)
    for file in weights:
        outline_of(directory / file.name).unlink(missing_ok=True)


def persistent(read: Read) -> Read:
    """Tries what fails again, unless who asks is not let in."""

    def again(file: RemoteFile, begin: int, end: int) -> bytes | None:
        for pause in _PAUSES:
            try:
                return read(file, begin, end)
            except ModelError as error:
                if error.reason != "DownloadFailed":
                    raise
                again_after(pause)
        return read(file, begin, end)

    return again


def _has_samples(directory: Path, file: Path) -> bool:
    """Whether the samples that were told of a file lie in it."""
    samples = directory / SAMPLES_FILE
    if not samples.exists():
        return True
    told, begin = samples.read_bytes(), 0
    for place in places(TensorIndex(directory)):
        size = place.end - place.begin
        if place.file == file and read_place(place) != told[begin : begin + size]:
            return False
        begin += size
    return True


def _fetch_head(read: Read, file: RemoteFile, directory: Path) -> bool:
    outline = outline_of(directory / file.name)
    if (directory / file.name).exists() or outline.exists():
        return True
    first = read(file, 0, min(_HEAD_BYTES, file.size)) if file.size else b""
    if first is None:
        return False
    length = header_length(Path(file.name), first, file.size)
    rest = read(file, len(first), length) if length > len(first) else b""
    if rest is None:
        return False
    head = (first + rest)[:length]
    read_header(Path(file.name), BytesIO(head), file.size)
    _write(outline, head)
    return True


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(content)
    part.rename(target)
