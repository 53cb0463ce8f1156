"""Whole expert sets of live traffic in files of the brain's trace format, for those who replay what-ifs offline.

Off unless asked for: which experts a token chose can betray what it was. A file has a sample of a minute's rows, in
order of time; their ``prompt`` numbers the windows that they were counted in, since whose rows they were is not known
here. Replicas that share a folder keep within its bound together: the oldest files leave, whoever wrote them.

Files are written by a thread of their own, since a file system may stand still: neither a step nor a report waits.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from moe_contract.applications import RecordConfig
from moe_placement import InvalidTraceError
from moe_placement.traces import Trace, write_trace
from moe_serving.routing.gatherer import Sets, half_floats
from moe_serving.threads import SupervisedThread

FILE_SECONDS = 60.0
"""Of traffic in a file."""
PART_SECONDS = 600.0
"""A file that has been incomplete for so long was left by a process that died."""
CLOSE_SECONDS = 5.0
"""For the last file; where it takes longer, it is lost with the process."""

_NAME = re.compile(r"trace-\d{8}T\d{6}-[0-9a-f]{8}\.npz")
_PART = re.compile(rf"{_NAME.pattern}\.part")

logger = logging.getLogger(__name__)


class _Sample:
    """Rows chosen at random, all equally likely, in order of time; begun with the first ones."""

    def __init__(self, sets: Sets, began: float) -> None:
        self.began = began
        self._ids, self._gates = sets[0][:0], sets[1][:0]
        self._keys = np.zeros(0)
        self._windows = np.zeros(0, dtype=np.int64)
        self._count = 0

    def add(self, sets: Sets, most: int) -> None:
        """Those of another window; at most ``most`` rows stay."""
        ids, gates = np.concatenate([self._ids, sets[0]]), np.concatenate([self._gates, sets[1]])
        keys = np.concatenate([self._keys, np.random.default_rng().random(len(sets[0]))])
        windows = np.concatenate([self._windows, np.full(len(sets[0]), self._count)])
        if len(keys) > most:
            kept = np.sort(np.argpartition(keys, most)[:most])
            ids, gates, keys, windows = ids[kept], gates[kept], keys[kept], windows[kept]
        self._ids, self._gates, self._keys, self._windows = ids, gates, keys, windows
        self._count += 1

    def trace(self, experts: int) -> Trace:
        domain = np.zeros_like(self._windows)
        return Trace(self._ids, experts, self._windows, domain, ("live",), half_floats(self._gates))


class TraceFiles:
    """For any thread.

    Args:
        experts: of the model.
        clock: seconds since the epoch.
    """

    def __init__(self, experts: int, clock: Callable[[], float] = time.time) -> None:
        self._experts = experts
        self._clock = clock
        self._lock = threading.Lock()
        self._config: RecordConfig | None = None
        self._sample: _Sample | None = None
        self._writer: SupervisedThread | None = None
        self.problem: str | None = None
        """Why nothing could be written the last time, in words; None where it could."""

    def configure(self, config: RecordConfig | None) -> None:
        """Record as ``config`` says from now on; None ends it. What was recorded before is written as the old one said.

        Does not wait for that.
        """
        with self._lock:
            if config != self._config:
                self._hand_over()
                self._config, self.problem = config, None

    def add(self, sets: Sets) -> None:
        """Take the sets of rows that were counted together."""
        with self._lock:
            if self._config is None or not len(sets[0]):
                return
            if self._sample is None:
                self._sample = _Sample(sets, self._clock())
            self._sample.add(sets, self._config.sample_rows)

    def write_due(self) -> None:
        """Have a file written if its time has come. Does not wait for that.

        What was recorded since the last one is dropped, and that is told, where that one is still being written.
        """
        with self._lock:
            if self._sample is not None and self._clock() >= self._sample.began + FILE_SECONDS:
                self._hand_over()

    def wait(self, seconds: float) -> bool:
        """Until no file is being written, for so long at most; whether none is."""
        writer = self._writer
        if writer is not None:
            writer.join(seconds)
        return writer is None or not writer.is_alive()

    def close(self) -> None:
        """Take no more, and write what there is, if that takes no longer than ``CLOSE_SECONDS``."""
        self.configure(None)
        if not self.wait(CLOSE_SECONDS):
            logger.warning("traffic cannot be recorded: the last file is not written after %g s", CLOSE_SECONDS)

    def _hand_over(self) -> None:
        """Have the writer write the sample; the lock is held."""
        config, sample = self._config, self._sample
        self._sample = None
        if config is None or sample is None:
            return
        if self._writer is not None and self._writer.is_alive():
            self._tell("traffic cannot be recorded: the file before is still being written")
            return
        self._writer = SupervisedThread("trace-writer", lambda: self._write(config, sample))
        self._writer.start()

    def _write(self, config: RecordConfig, sample: _Sample) -> None:
        """The writer's thread, without the lock: a file system may take for ever."""
        try:
            _write_file(Path(config.path), sample.trace(self._experts), sample.began)
            problem = _keep_within(Path(config.path), config.max_bytes)
        except (OSError, InvalidTraceError) as error:
            problem = f"traffic cannot be recorded: {error}"
        with self._lock:
            if config == self._config:
                self._tell(problem)
            elif problem is not None:  # the folder is not written to any more
                logger.warning(problem)

    def _tell(self, problem: str | None) -> None:
        self.problem = problem
        if problem is not None:
            logger.warning(problem)


def _write_file(folder: Path, trace: Trace, began: float) -> None:
    """Complete or not at all; for nobody else to read."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"trace-{datetime.fromtimestamp(began, UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}.npz"
    part = folder / f"{name}.part"
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        write_trace(part, trace)
        part.replace(folder / name)
    finally:
        part.unlink(missing_ok=True)


def _keep_within(folder: Path, most: int) -> str | None:
    """Remove the oldest files until all together have ``most`` bytes; what is wrong where none is left.

    Also those that were begun long ago by a process that died. Others than ours are left alone.
    """
    ours = sorted(folder.glob("trace-*"))
    for part in ours:
        if _PART.fullmatch(part.name) and _age(part) > PART_SECONDS:
            part.unlink(missing_ok=True)
    files = [file for file in ours if _NAME.fullmatch(file.name)]
    sizes = [_size(file) for file in files]
    total = sum(sizes)
    for file, size in zip(files, sizes, strict=True):
        if total <= most:
            return None
        file.unlink(missing_ok=True)
        total -= size
    newest = sizes[-1] if sizes else 0
    return None if newest <= most else f"traffic cannot be recorded: a file takes {newest} bytes, of {most} allowed"


def _age(file: Path) -> float:
    """Seconds since it was written to."""
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:  # complete by now, or another replica has removed it
        return 0.0


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # another replica has removed it
        return 0
