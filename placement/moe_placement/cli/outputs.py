"""Files that a command writes: checked before the work begins, written whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from moe_placement.errors import PlacementError

SUFFIXES = {"--sglang": (".json",), "--picture": (".png", ".svg")}
"""Of flags whose file has a format."""


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Mapping[str, Path],
    formats: Mapping[str, tuple[str, ...]] = SUFFIXES,
) -> None:  # fmt: skip
    """Whether each flag's file can be written, is of a format that there is, and no other file of the command.

    Raises:
        PlacementError: naming the flag, the path and the cure.
    """
    taken = {os.path.realpath(path): name for name, path in inputs.items()}
    for name, path in outputs.items():
        if path is None:
            continue
        _check_place(name, path)
        suffixes = formats.get(name, ())
        if suffixes and path.suffix not in suffixes:
            raise PlacementError(f"{name} {path} must end in {' or '.join(suffixes)}")
        other = taken.setdefault(os.path.realpath(path), name)
        if other != name:
            raise PlacementError(f"{name} {path} is the file of {other}, too: give each a path of its own")
    if outputs.get("--picture") is not None and importlib.util.find_spec("matplotlib") is None:
        raise PlacementError("--picture needs matplotlib: pip install matplotlib")


def _check_place(name: str, path: Path) -> None:
    """A file that may be written, or none yet in a folder that may."""
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir():
        raise PlacementError(f"{name} {path} is a directory: name a file in it")
    if not path.exists() and not folder.is_dir():
        raise PlacementError(f"{name} {path}: there is no folder {folder}: make it first")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PlacementError(f"{name} {path} may not be written: change its permissions, or name another place")


def write_all(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """Let each writer write its file, all or none: beside its place first, moved there once all are whole.

    The target of a link is replaced; what is no file of its own (a pipe, a device, ``/dev/stdout``) is written to.
    """
    with ExitStack() as stack:
        staged: dict[Path, Path] = {}
        for path, write in writers.items():
            place = Path(os.path.realpath(path))
            beside = None if _is_device(path) else place.parent
            folder = stack.enter_context(TemporaryDirectory(prefix=".moe-placement-", dir=beside))
            staged[path] = Path(folder, place.name if beside else f"output{path.suffix}")
            write(staged[path])
        for path, whole in staged.items():
            if _is_device(path):
                sys.stdout.flush()
                with path.open("ab") as stream:
                    stream.write(whole.read_bytes())
            else:
                whole.replace(os.path.realpath(path))


def _is_device(path: Path) -> bool:
    return path.exists() and (not path.is_file() or Path("/dev") in path.absolute().parents)
