"""Reading what a command is given; a file of another engine is recognised, and the error says how to convert it."""

from __future__ import annotations

import re
import shlex
import zipfile
from pathlib import Path

from moe_placement.encoding import decode_placement
from moe_placement.engines.files import MAP, is_torch_file
from moe_placement.errors import InvalidPlacementError, InvalidStatisticsError, InvalidTraceError
from moe_placement.placement import Placement
from moe_placement.statistics import RoutingStatistics, decode_statistics
from moe_placement.traces import Trace, concatenate, read_trace
from moe_placement.traces.archive import SINGLE

MOST_IN_FOLDER = 1 << 31
"""Bytes of the traces in a folder; as arrays they are some times as large."""
_HEAD = 1 << 16
"""Bytes that a file is recognised by."""
_STATISTICS = b'{"format": "moe-routing-statistics/'
_LEADS = {
    "torch": "it was saved by torch, as SGLang's recordings are: `moe-placement convert trace {path} --out TRACE.npz`, "
    "or `convert statistics` for those of mode stat",
    "map": "it holds an expert map: `moe-placement convert placement {path} --shards N --moe-layers L --out PLACEMENT`",
    "arrays": "if it holds routed_experts of vLLM: `moe-placement convert trace {path} --experts N --out TRACE.npz`",
    "statistics": "it holds statistics, which only plan reads",
    "trace": "it holds a trace",
    "placement": "it holds a placement: give it with --current, or after the trace",
}


def trace_of(path: Path) -> Trace:
    """A trace, or all in a folder, one after the other.

    Raises:
        InvalidTraceError: the file is none; the message leads to ``convert`` where it may be an engine's. Or the folder
            has none, or more than are read at once.
        MismatchError: traces of several models are in the folder.
    """
    if path.is_dir():
        return _all_in(path)
    try:
        return read_trace(path)
    except InvalidTraceError as error:
        raise InvalidTraceError(f"{error}{lead(path, 'trace')}") from error


def _all_in(folder: Path) -> Trace:
    """Whoever records may remove files meanwhile."""
    files = sorted(folder.glob("*.npz"))
    size = sum(file.stat().st_size for file in files if file.exists())
    if size > MOST_IN_FOLDER:
        raise InvalidTraceError(
            f"{folder} has {len(files)} files of {size} bytes, {MOST_IN_FOLDER} are read at once: copy some to another"
        )
    traces = []
    for file in files:
        try:
            traces.append(trace_of(file))
        except InvalidTraceError:
            if file.exists():
                raise
    if not traces:
        raise InvalidTraceError(f"{folder} has no trace (*.npz)")
    return concatenate(traces)


def traffic_of(path: Path) -> Trace | RoutingStatistics:
    """A trace, or statistics that ``convert statistics`` wrote.

    Raises:
        PlacementError: as for ``trace_of``, or damaged statistics.
    """
    if _recognised(path) != "statistics":
        return trace_of(path)
    try:
        return decode_statistics(path.read_bytes())
    except InvalidStatisticsError as error:
        raise InvalidStatisticsError(f"{path}: {error}") from error


def placement_of(path: Path) -> Placement:
    """A placement.

    Raises:
        InvalidPlacementError: the file is none; the message leads to ``convert`` where it may be an engine's.
    """
    try:
        return decode_placement(path.read_text(encoding="utf-8").strip())
    except (UnicodeDecodeError, InvalidPlacementError) as error:
        wanted = "; name a file that plan --out wrote"
        raise InvalidPlacementError(f"{path}: {error}{lead(path, 'placement') or wanted}") from error


def lead(path: Path, wanted: str = "") -> str:
    """How to use a file of another kind than ``wanted``, as the end of a message; an empty text where it is not
    recognised.
    """
    kind = _recognised(path)
    return "" if kind in (None, wanted) else "; " + _LEADS[str(kind)].format(path=shlex.quote(str(path)))


def _recognised(path: Path) -> str | None:
    """A key of ``_LEADS``."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        if zipfile.is_zipfile(path):
            return _of_archive(path)
    except OSError:
        return None
    if re.match(rb"p\d+\.", head):
        return "placement"
    if head.startswith(_STATISTICS):
        return "statistics"
    if f'"{MAP}"'.encode() in head:
        return "map"
    return "arrays" if head.startswith(SINGLE) or b'"choices"' in head or b'"routed_experts"' in head else None


def _of_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except zipfile.BadZipFile:
        return None
    if is_torch_file(path):
        return "torch"
    if f"{MAP}.npy" in names:
        return "map"
    if "format.npy" in names:
        return "trace"
    return "arrays" if any(name.endswith(".npy") for name in names) else None
