"""One checkpoint that is kept elsewhere, in this node's cache: what it consists of, its outline, and its weights.

A file in its place is whole and was compared with its checksum, whoever fetched it. Files come one at a time under the
checkpoint's lock, which is let go between them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.tensors import INDEX_FILE, weight_map
from moe_serving.fetching.asking import ask_for
from moe_serving.fetching.cache import Cache
from moe_serving.fetching.files import RemoteFile, first_files, has_index, weight_files
from moe_serving.fetching.listing import Listing
from moe_serving.fetching.outline import Read, fetch_outlines, fits_outline, remove_outlines, renew_outlines
from moe_serving.fetching.source import Source
from moe_serving.fetching.store import store_of

NOTE_SECONDS = 1.0
"""Between two notes of how much of a file is there."""

Heard = Callable[[int, int], None]
"""Is told how many bytes are on this node, and how many are to be; may raise what ends the fetch."""

_ARRIVING = ".arriving"
"""Folder of the hub's library for what is not whole."""


class Keeper:
    """All raise ModelError (WeightsMissing, WeightsTruncated, DownloadFailed or AccessDenied) and OSError."""

    def __init__(self, source: Source, cache: Cache) -> None:
        self._source = source
        self._cache = cache
        self._name = source.directory
        self._directory = cache.directory(source.directory)
        self._store = store_of(source)

    def listing(self) -> Listing:
        """Once it is there all but weights is, too. What is doubted of it are weights, which ``fetch`` asks about."""
        known = self._cache.listing(self._name)
        if known is not None:
            return known
        with self._cache.fetching(self._name):
            return self._listing()

    def outline(self) -> bool:
        """Have what ``Checkpoint.open`` reads of weights that are not there; False where all files must be."""
        known = self._cache.listing(self._name)
        if known is not None and (not known.in_parts or self._cache.is_outlined(self._name)):
            return known.in_parts  # without the lock: a file may be on its way for minutes
        with self._cache.fetching(self._name), self._doubting():
            listing = self._listing()
            if not listing.in_parts or self._cache.is_outlined(self._name):
                return listing.in_parts
            return self._have_outlines(fetch_outlines, listing)

    def renew_outline(self) -> None:
        """Ask for another one, which takes the place of the one that is there once it is whole."""
        listing = self._cache.listing(self._name)
        if listing is not None and listing.in_parts:
            with self._cache.fetching(self._name), self._doubting():
                self._have_outlines(renew_outlines, self._listing())

    def _have_outlines(self, have: Callable[[Read, Sequence[RemoteFile], Path], bool], listing: Listing) -> bool:
        try:
            outlined = have(self._store.read, listing.weights, self._directory)
        except ModelError as error:
            if error.reason not in ("WeightsMissing", "WeightsTruncated"):
                raise
            raise ModelError(error.reason, f"{self._source}: {error}") from error
        if not outlined:
            self._cache.change_listing(self._name, lambda now: replace(now, in_parts=False))
        return outlined

    def lacking(self, names: Collection[str]) -> tuple[str, ...]:
        """Those of ``names``, weights, that are not on this node."""
        return tuple(name for name in sorted(names) if not (self._directory / name).exists())

    def ask_for_all(self, also_there: bool = False) -> None:
        """Whether all weights can be had; nothing of them is kept (``asking``). ``also_there``: those that are on this
        node as well, where it loses them before they are needed."""
        listing = self.listing()
        with self._doubting():
            listing = self._undoubted(listing)  # by a size that was told wrongly no last byte may be had
            names = {file.name for file in listing.weights}
            asked = names if also_there else set(self.lacking(names))
            ask_for(self._store, self._source, [file for file in listing.weights if file.name in asked])

    def want(self, names: Collection[str], heard: Heard = lambda *_: None) -> None:
        """Have room for these files with weights, beside those that are wanted already."""
        listing = self._cache.listing(self._name)
        with self._doubting():
            if listing is not None:
                self._undoubted(listing, heard)  # by a size that was told wrongly there may be no room
            self._cache.want(self._name, names)

    def fetch(self, name: str, heard: Heard) -> None:
        """One file with weights, unless it has come meanwhile; room was made for it."""
        with self._cache.fetching(self._name, lambda: self._hear(heard)), self._doubting():
            listing = self._listing()
            file = next((each for each in listing.weights if each.name == name), None)
            if file is None:
                raise ModelError("WeightsMissing", f"{self._source} has no {name:.200} among its weights any more")
            if not (self._directory / name).exists():
                note = self._noting(listing, heard)
                note(0)
                self._store.fetch(file, self._directory, note)
                self._compare(file, listing)
            self._noting(listing, heard)(0)

    def finish(self) -> None:
        """Note it where all weights are there, so that nothing is on its way."""
        listing = self._cache.listing(self._name)
        if listing is not None and not self.lacking([file.name for file in listing.weights]):
            self._cache.complete(self._name)
            shutil.rmtree(self._directory / _ARRIVING, ignore_errors=True)

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        """What fails may do so because what is listed has been told wrongly, such as the size of a page of errors."""
        try:
            yield
        except ModelError:
            self._cache.change_listing(self._name, lambda now: replace(now, doubted=True))
            raise

    def _undoubted(self, listing: Listing, heard: Heard = lambda *_: None) -> Listing:
        """The same, told anew where it is doubted and who keeps it answers."""
        if not listing.doubted:
            return listing
        with self._cache.fetching(self._name, lambda: self._hear(heard)):
            return self._listing()

    def _listing(self) -> Listing:
        """As ``listing``, of who has the lock."""
        before = self._cache.listing(self._name)
        if before is not None and not before.doubted:
            return before
        try:
            told = self._list(before)
        except ModelError:
            if before is None:
                raise
            return before  # what can be had as it says need not wait for the rest
        return self._cache.keep_listing(self._name, told)

    def _list(self, before: Listing | None) -> Listing:
        """Ask who keeps it."""
        store = self._store
        names = store.names()
        first = [store.file(name) for name in first_files(names)]
        small = sum(file.size for file in first)
        self._cache.make_room(self._name, small + (before.size - before.small if before else 0))
        for file in first:  # the index among them
            store.fetch(file, self._directory, lambda count: None)
        index = self._read_index() if has_index(names) else {}
        return Listing(small, self._weights(names, index), in_parts=len(set(index.values())) > 1)

    def _weights(self, names: Collection[str], index: Mapping[str, str]) -> tuple[RemoteFile, ...]:
        wanted = weight_files(names, index)
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ModelError(
                "WeightsMissing",
                f"{self._source} has no {missing[0]:.200}, which its {INDEX_FILE} names: take another one",
            )
        return tuple(map(self._store.file, wanted))

    def _read_index(self) -> Mapping[str, str]:
        try:
            return weight_map(self._directory / INDEX_FILE)
        except ValueError as error:
            raise ModelError(
                "WeightsMissing", f"{self._source}: {INDEX_FILE} there is damaged ({error}): take another one"
            ) from error

    def _compare(self, file: RemoteFile, listing: Listing) -> None:
        """What came has its checksum: where it does not fit, the outline is wrong, and the next start asks anew."""
        if not fits_outline(self._directory, file.name):
            remove_outlines(self._directory, listing.weights)
            raise ModelError(
                "DownloadFailed",
                f"{self._source}: the header or a sample of {file.name} was another one when it was asked for alone; "
                "it is tried again, and processes of this node that opened the model by it are to be restarted: they "
                "go by another digest than those that start from now on",
            )

    def _hear(self, heard: Heard) -> None:
        """While another process has the lock: what it has noted."""
        listing = self._cache.listing(self._name)
        if listing is not None:
            heard(*(self._cache.progress(self._name) or (self._there(listing), listing.size)))

    def _there(self, listing: Listing) -> int:
        """Bytes on this node, of files that are whole and wanted."""
        wanted = (file for file in listing.weights if file.name in listing.wanted)
        return listing.small + sum(file.size for file in wanted if (self._directory / file.name).exists())

    def _noting(self, listing: Listing, heard: Heard) -> Callable[[int], None]:
        """Notes progress within a file, once in ``NOTE_SECONDS`` at most."""
        noted_at = float("-inf")
        before = self._there(listing)

        def note(count: int) -> None:
            nonlocal noted_at
            now = time.monotonic()
            if now - noted_at >= NOTE_SECONDS:
                noted_at = now
                self._cache.note_progress(self._name, before + count, listing.size)
                heard(before + count, listing.size)

        return note
