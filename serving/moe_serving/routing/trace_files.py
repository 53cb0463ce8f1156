"""Whole expert sets of live traffic in files of the brain's trace format, for those who replay what-ifs offline.

Off unless asked for: which experts a token chose can betray what it was. A file has a sample of a minute's rows, in
order of time; their ``prompt`` numbers the windows that they were counted in, since whose rows they were is not known
here. Each replica writes files of its own; their names tell them apart. Replicas that share a folder keep within its
bound together: the oldest files leave, whoever wrote them.

Files are written by a thread of their own, since a file system may stand still: neither a step nor a report waits.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_contract.applications import RecordConfig
from moe_contract.report import NOT_RECORDED
from moe_placement import InvalidTraceError
from moe_placement.traces import Trace, write_trace
from moe_serving.routing.gatherer import Sets, half_floats
from moe_serving.threads import SupervisedThread, in_words

FILE_SECONDS = 60.0
"""Of traffic in a file."""
PART_SECONDS = 600.0
"""A file that has been incomplete for so long was left by a process that died."""
CLOSE_SECONDS = 5.0
"""For the last file; where it takes longer, it is lost with the process."""

STILL_SECONDS = 10.0
"""For one file or one look at a folder, after which it is told that its file system stands still."""
MOST_WAITING = 2
"""Looks at one folder, and files for it, that wait where its file system stands still and the configuration changes."""
MOST_LEFT = 4
"""Folders whose file systems stand still that others are recorded to instead: each keeps a thread."""

_NAME = re.compile(r"trace-\d{8}T\d{6}-[0-9a-f]{8}(-\d{6})?\.npz")
_PART = re.compile(rf"{_NAME.pattern}\.part")

logger = logging.getLogger(__name__)


class _Sample:
    """Rows chosen at random, all equally likely, in order of time; begun with the first ones.

    Each row has a random key, and those with the smallest stay: a row whose key is beyond those of ``most`` others is
    never copied, and what was overtaken since is thrown away when there is as much of it as may stay.
    """

    def __init__(self, began: float, most: int) -> None:
        self.began = began
        self._most = most
        self._random = np.random.default_rng()
        self._parts: list[tuple[NDArray[Any], ...]] = []
        self._rows = self._windows = 0
        self._beyond = np.inf

    def add(self, sets: Sets) -> None:
        """Those of another window."""
        keys = self._random.random(len(sets[0]))
        here = keys < self._beyond
        window = np.full(np.count_nonzero(here), self._windows)
        self._parts.append((sets[0][here], half_floats(sets[1][here]), keys[here], window))
        self._rows += len(window)
        self._windows += 1
        if self._rows > 2 * self._most:
            self._thin()

    def trace(self, experts: int) -> Trace:
        self._thin()
        ((ids, gates, _, windows),) = self._parts
        return Trace(ids, experts, windows, np.zeros_like(windows), ("live",), gates)

    def _thin(self) -> None:
        ids, gates, keys, windows = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        if len(keys) > self._most:
            kept = np.sort(np.argpartition(keys, self._most - 1)[: self._most])
            ids, gates, keys, windows = ids[kept], gates[kept], keys[kept], windows[kept]
            self._beyond = float(keys.max())
        self._parts, self._rows = [(ids, gates, keys, windows)], len(keys)


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
        self._owner = secrets.token_hex(4)
        self._files = 0
        self._writers: list[_Writer] = []
        self._writer: _Writer | None = None
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why nothing can be written, in words, as far as that was tried; None where it can."""
        config, writer = self._config, self._writer
        if config is not None and writer is not None and writer.stands_still:
            return f"{NOT_RECORDED}: {config.path} has not answered for more than {STILL_SECONDS:.0f} s"
        return self._problem

    def configure(self, config: RecordConfig | None) -> None:
        """Record as ``config`` says from now on; None ends it. What was recorded before is written as the old one said.

        Does not wait for that, nor for a look at whether the folder can be written to.
        """
        with self._lock:
            if config == self._config:
                return
            self._hand_over()
            self._config, self._writer, self._problem = config, None, None
            if config is not None:
                self._find_writer(config)

    def add(self, sets: Sets) -> None:
        """Take the sets of rows that were counted together."""
        with self._lock:
            if self._config is None or self._writer is None or not len(sets[0]):
                return
            if self._sample is None:
                self._sample = _Sample(self._clock(), self._config.sample_rows)
            self._sample.add(sets)

    def write_due(self) -> None:
        """Have a file written if its time has come. Does not wait for that.

        What was recorded since the last one is dropped, and that is told, where that one is still being written.
        """
        with self._lock:
            if self._config is not None and self._writer is None:
                self._find_writer(self._config)
            if self._sample is not None and self._clock() >= self._sample.began + FILE_SECONDS:
                self._hand_over()

    def wait(self, seconds: float) -> bool:
        """Until no file is being written, for so long at most; whether none is."""
        end = time.monotonic() + seconds
        with self._lock:
            writers = (*self._writers,)
        return all(writer.wait(max(0.0, end - time.monotonic())) for writer in writers)

    def close(self) -> None:
        """Take no more, and write what there is, if that takes no longer than ``CLOSE_SECONDS``."""
        self.configure(None)
        if not self.wait(CLOSE_SECONDS):
            logger.warning("%s: the last file is not written after %g s", NOT_RECORDED, CLOSE_SECONDS)

    def _find_writer(self, config: RecordConfig) -> None:
        """Of its folder, which looks at that; the lock is held."""
        self._writers = [writer for writer in self._writers if writer.works]
        writer = next((each for each in self._writers if each.path == config.path), None)
        if writer is None and len(self._writers) > MOST_LEFT:
            paths = ", ".join(each.path for each in self._writers)
            problem = f"{NOT_RECORDED}: what was recorded before is still being written, to {paths}"
            if problem != self._problem:
                self._tell(problem)
            return
        if writer is None:
            writer = _Writer(config.path)
            self._writers.append(writer)
        self._writer, self._problem = writer, None
        if writer.waiting < MOST_WAITING:
            writer.do(lambda: self._try(config, lambda: _check_folder(Path(config.path))))

    def _hand_over(self) -> None:
        """Have the writer write the sample; the lock is held."""
        config, sample, writer = self._config, self._sample, self._writer
        self._sample = None
        if config is None or sample is None or writer is None:
            return
        if writer.is_behind:
            self._tell(f"{NOT_RECORDED}: the file before is still being written")
            return
        writer.is_behind = True
        self._files = (self._files + 1) % 1_000_000
        name = f"{_stem(sample.began, self._owner)}-{self._files:06}.npz"
        writer.do(lambda: self._try(config, lambda: self._write(config, name, sample, writer)))

    def _write(self, config: RecordConfig, name: str, sample: _Sample, writer: _Writer) -> str | None:
        try:
            _write_file(Path(config.path), name, sample.trace(self._experts))
            return _keep_within(Path(config.path), config.max_bytes)
        finally:
            writer.is_behind = False

    def _try(self, config: RecordConfig, work: Callable[[], str | None]) -> None:
        """The writer's thread, without the lock: a file system may take for ever."""
        try:
            problem = work()
        except (OSError, InvalidTraceError) as error:
            problem = f"{NOT_RECORDED}: {error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, what serves goes on
            problem = f"{NOT_RECORDED}: {in_words(error)}"
        with self._lock:
            if config == self._config:
                self._tell(problem)
            elif problem is not None:  # the folder is not written to any more
                logger.warning(problem)

    def _tell(self, problem: str | None) -> None:
        self._problem = problem
        if problem is not None:
            logger.warning(problem)


class _Writer:
    """Does what may take for ever with one folder, one after the other, in a thread that is there only meanwhile.

    Attributes:
        is_behind: while a file is to be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_behind = False
        self._began = 0.0
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._works = False

    @property
    def waiting(self) -> int:
        """How much is to be done when what is being done is done."""
        return len(self._waiting)

    @property
    def works(self) -> bool:
        return self._works

    @property
    def stands_still(self) -> bool:
        """Whether what it does takes longer than anything should."""
        return self._works and time.monotonic() - self._began > STILL_SECONDS

    def do(self, job: Callable[[], None]) -> None:
        with self._changed:
            self._waiting.append(job)
            if not self._works:
                self._began, self._works = time.monotonic(), True  # in this order for who asks without the lock
                SupervisedThread("trace-writer", self._work).start()

    def wait(self, seconds: float) -> bool:
        """Until nothing is left to do, for so long at most; whether nothing is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._works, seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._works = False
                    self._changed.notify_all()
                    return
                job, self._began = self._waiting.popleft(), time.monotonic()
            job()


def _write_file(folder: Path, name: str, trace: Trace) -> None:
    """Complete or not at all; for nobody else to read."""
    part = _begin(folder, name)
    try:
        write_trace(part, trace)
        part.replace(folder / name)
    finally:
        part.unlink(missing_ok=True)


def _check_folder(folder: Path) -> None:
    """
    Raises:
        OSError: no file can be made there.
    """
    _begin(folder, f"{_stem(time.time(), secrets.token_hex(4))}.npz").unlink()


def _begin(folder: Path, name: str) -> Path:
    """An empty file that is to become ``name``, of which ``_PART`` knows it until then."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.part"
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return part


def _stem(began: float, owner: str) -> str:
    """How the name of a file begins."""
    return f"trace-{datetime.fromtimestamp(began, UTC):%Y%m%dT%H%M%S}-{owner}"


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
    return None if newest <= most else f"{NOT_RECORDED}: a file takes {newest} bytes, of {most} allowed"


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
