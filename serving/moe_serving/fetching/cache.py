"""A node's directory of fetched checkpoints, shared by all processes on it, with a bound.

Each checkpoint has a directory, and beside it two files that processes lock: ``.lock`` by who fetches it, ``.used`` by
all that use it, for as long as they live, so that what is used is never removed. A directory with ``.complete`` beside
it has all its files; without, what is there under its own name is whole, and more comes as it is needed, or as a fetch
that was cut short goes on. ``.listing`` in it says what there is (``listing``), ``.size`` how many bytes it is to have.
Locks are waited for as long as whoever has them gets on (``locks``); after that ModelError, DownloadFailed, says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.samples import SAMPLES_FILE
from moe_serving.fetching.listing import Listing
from moe_serving.fetching.locks import locked, note_holder, take, try_to_take

_LISTING = ".listing"

_used: dict[Path, IO[bytes]] = {}
"""Locks of what this process uses; let go when it ends."""
_using = threading.Lock()
"""Of two threads that asked at once each would open the file, and one of them lose its lock."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Below ``path``, of at most ``most`` bytes."""

    path: Path
    most: int

    @classmethod
    def of_environment(cls) -> Cache:
        """As ``MOE_MODEL_CACHE`` and ``MOE_MODEL_CACHE_BYTES`` say; by default nine tenths of the disk.

        Raises:
            ModelError: DownloadFailed, one of them cannot be followed.
        """
        path = Path(os.environ.get("MOE_MODEL_CACHE") or Path.home() / ".cache" / "moe-operator" / "models")
        most = os.environ.get("MOE_MODEL_CACHE_BYTES")
        if most and not (most.isascii() and most.isdecimal()):
            raise ModelError(
                "DownloadFailed", f"MOE_MODEL_CACHE_BYTES is {most[:100]!a} on a node: write bytes in digits"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            return cls(path, int(most) if most else shutil.disk_usage(path).total * 9 // 10)
        except OSError as error:
            raise unusable(path, error) from error

    def directory(self, name: str) -> Path:
        return self.path / name

    def is_complete(self, name: str) -> bool:
        return (self.path / f"{name}.complete").exists()

    def complete(self, name: str) -> None:
        """All its files are there."""
        (self.path / f"{name}.complete").touch()

    def listing(self, name: str) -> Listing | None:
        """What it consists of; None where nobody has asked yet."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or another release's
            return Listing.load((self.path / name / _LISTING).read_text())
        return None

    def keep_listing(self, name: str, listing: Listing) -> Listing:
        """What it consists of, as it was told now; with the files that are wanted. Where it is not the first that was
        told, room is made for these anew, since they may have other sizes.

        Raises:
            ModelError: DownloadFailed, the bound leaves no room.
        """
        with self._room():
            before = self.listing(name)
            if before is not None:
                listing = listing.wanting(before.wanted)
                self._make_room(name, listing.size)
            self._write_listing(name, listing)
        return listing

    def change_listing(self, name: str, change: Callable[[Listing], Listing]) -> None:
        """Alone among all who do."""
        with self._room():
            if (listing := self.listing(name)) is not None:
                self._write_listing(name, change(listing))

    def is_outlined(self, name: str) -> bool:
        """Whether there is what ``Checkpoint.open`` reads of weights that are not there."""
        return (self.path / name / SAMPLES_FILE).exists()

    def want(self, name: str, weights: Collection[str]) -> None:
        """Keep room for these files too, as ``make_room`` does, of one that is listed.

        Raises:
            ModelError: DownloadFailed, the bound leaves no room.
        """
        with self._room():
            listing = self.listing(name)
            if listing is not None and not listing.wanted.issuperset(weights):
                more = listing.wanting(weights)
                self._make_room(name, more.size)
                self._write_listing(name, more)

    def note_progress(self, name: str, done: int, total: int) -> None:
        """``done`` of ``total`` bytes are there; for other processes to read."""
        (self.path / f"{name}.progress").write_text(f"{done} {total}")

    def progress(self, name: str) -> tuple[int, int] | None:
        """What was noted; None before that, and once all is there that is wanted so far."""
        if self.is_complete(name):
            return None
        with contextlib.suppress(OSError, ValueError):  # there is none yet, or it is being written
            done, total = (self.path / f"{name}.progress").read_text().split()
            return (int(done), int(total)) if int(done) < int(total) else None
        return None

    def use(self, name: str) -> None:
        """From now on this process uses it: nobody removes it before this process has ended."""
        file = self.path / f"{name}.used"
        with _using:
            if file not in _used:
                try:
                    stream = file.open("ab")
                except OSError as error:
                    raise unusable(self.path, error) from error
                try:
                    take(stream, fcntl.LOCK_SH)
                except BaseException:
                    stream.close()
                    raise
                _used[file] = stream
        os.utime(file)

    @contextlib.contextmanager
    def fetching(self, name: str, meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Alone among the processes of this node; others wait until it is there, or was given up, or comes no more.

        Args:
            meanwhile: called now and then by who waits; what it raises ends the wait.
        """
        with locked(self.path / f"{name}.lock", lambda: _bytes_below(self.path / name), meanwhile):
            yield

    def make_room(self, name: str, size: int) -> None:
        """Remove what was longest unused until ``size`` bytes of a checkpoint fit beside what stays; keep them for it.
        Nothing is removed where they would not fit even so.

        Raises:
            ModelError: DownloadFailed, the bound leaves no room.
        """
        with self._room():
            self._make_room(name, size)

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Alone for a moment: of two at once each would take the same room."""
        with locked(self.path / "room"):
            yield

    def _write_listing(self, name: str, listing: Listing) -> None:
        part = self.path / name / f"{_LISTING}.part"
        part.write_text(listing.dump())
        part.rename(self.path / name / _LISTING)

    def _make_room(self, name: str, size: int) -> None:
        kept = {each: self._bytes_of(each) for each in self._names() if each != name}
        going: list[str] = []
        with contextlib.ExitStack() as locks:
            for oldest in sorted(kept, key=self._used_at):
                if sum(kept.values()) + size <= self.most:
                    break
                if self._is_free(oldest, locks):
                    going.append(oldest)
                    del kept[oldest]
            if sum(kept.values()) + size > self.most:
                raise ModelError(
                    "DownloadFailed",
                    f"{name} takes {size} bytes, and the cache {self.path} may hold {self.most}, of which "
                    f"{sum(kept.values())} are of models in use or on their way: give it more (MOE_MODEL_CACHE_BYTES), "
                    "or another disk",
                )
            for each in going:
                self._remove(each)
        self.directory(name).mkdir(exist_ok=True)
        (self.path / f"{name}.size").write_text(str(size))

    def _names(self) -> list[str]:
        return [entry.name for entry in os.scandir(self.path) if entry.is_dir()]

    def _bytes_of(self, name: str) -> int:
        """On the disk, or as many as it is to have once it is fetched."""
        told = 0
        with contextlib.suppress(OSError, ValueError):  # of an earlier release, or cut short
            told = int((self.path / f"{name}.size").read_text())
        return max(told, _bytes_below(self.path / name))

    def _used_at(self, name: str) -> float:
        file = self.path / f"{name}.used"
        return file.stat().st_mtime if file.exists() else 0.0

    def _is_free(self, name: str, locks: contextlib.ExitStack) -> bool:
        """Whether no process uses or fetches it; none can from then on, until ``locks`` are let go."""
        with contextlib.ExitStack() as taken:
            for kind in ("used", "lock"):
                stream = taken.enter_context((self.path / f"{name}.{kind}").open("ab"))
                if not try_to_take(stream, fcntl.LOCK_EX):
                    return False
            note_holder(stream)  # in ``.lock``: of ``.used`` the time tells when it was used last
            locks.enter_context(taken.pop_all())
        return True

    def _remove(self, name: str) -> None:
        """One that is free. First what says that files are there, in case this is cut short."""
        for kind in ("complete", "size", "progress"):
            (self.path / f"{name}.{kind}").unlink(missing_ok=True)
        for file in (_LISTING, SAMPLES_FILE):
            (self.path / name / file).unlink(missing_ok=True)
        shutil.rmtree(self.path / name)


def unusable(path: Path, error: OSError) -> ModelError:
    """In words for who runs the node."""
    return ModelError(
        "DownloadFailed",
        f"the cache of models {path} cannot be used on a node: {error.strerror or error}; set MOE_MODEL_CACHE there "
        "to a directory that can be written",
    )


def _bytes_below(directory: Path) -> int:
    found = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # it has another name since, as one that is whole by now
                found += (Path(folder) / file).stat(follow_symlinks=False).st_size
    return found
