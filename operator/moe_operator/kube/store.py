"""What is known of the objects of one kind, fed by a watch, by listings and by the answers to own writes. No I/O.

The three come in any order: an event may be older than a listing, the answer to a write may come after the event of a
deletion. So the newer one by resourceVersion stays, compared as numbers (Kubernetes promises since 1.35 that they can
be), and what was deleted is remembered for a while, lest something late bring it back. Where a version is no number,
what comes last is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from moe_operator.api.names import ANNOTATION_DRAIN, ANNOTATION_PAUSE
from moe_operator.api.phase import Phase
from moe_operator.kube.api import Json, Listing
from moe_operator.kube.managed_fields import owners

GRAVE_SECONDS = 120.0
"""For which a deletion is remembered. An answer or an event that is as late would find nobody who waits for it."""

_METADATA = ("name", "namespace", "uid", "generation", "resourceVersion", "deletionTimestamp", "finalizers")
"""What is read of it. The rest (who set all other fields, annotations, owners) may be as large as the API server takes.
"""
_ANNOTATIONS, _ANNOTATION = (ANNOTATION_DRAIN, ANNOTATION_PAUSE), 16384
"""Those that are read, and characters that are kept of each: more than all shards take."""
_SHARDS = ("f:spec", "f:experts", "f:shards")
"""The field of which it is kept who wrote it."""
_ENDS = frozenset(phase for phase in Phase if phase.is_end)
_NO_LAYERS = ("-",)


@dataclass(slots=True)
class _Entry:
    """``conflicted``: whether a write was refused because the object is no longer ``live``.

    ``unseen_since``: when ``live`` came by other ways than the watch, while the watch has not delivered it.
    """

    live: Json
    unseen_since: float | None = None
    conflicted: bool = False


@dataclass(frozen=True, slots=True)
class _Grave:
    uid: str
    version: str
    at: float


class ObjectStore:
    """The newest known state of each object by key (``namespace/name``), as ``keep`` leaves it: without what nobody
    reads.

    What it returns is shared: never change it.

    Args:
        lingers: whether an object without finalizers is there for a while after it was asked to go, as a pod is: its
            end is a deletion, and no state of it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        keep: Callable[[Json], Json] | None = None,
        lingers: bool = False,
    ) -> None:
        self._clock = clock
        self._keep = keep or trimmed
        self._lingers = lingers
        self._entries: dict[str, _Entry] = {}
        self._graves: dict[str, _Grave] = {}
        self._newest = 0

    @property
    def newest(self) -> int:
        """The highest resourceVersion ever seen; 0 before the first, or where they are no numbers."""
        return self._newest

    def keys(self) -> set[str]:
        """Of all objects there are."""
        return set(self._entries)

    def all(self) -> Iterator[Json]:
        """Each object."""
        return (entry.live for entry in self._entries.values())

    def kept(self, live: Json) -> Json:
        """What it keeps of an object."""
        return self._keep(live)

    def get(self, key: str) -> Json | None:
        """The object, or None if there is none."""
        entry = self._entries.get(key)
        return entry.live if entry else None

    def put(self, live: Json, watched: bool = False) -> bool:
        """Keep an object unless what is known of it is newer; ``watched``: the watch delivered it.

        Returns:
            Whether it was news.
        """
        if _is_gone(live) and not self._lingers:
            return self.remove(live)
        key, version = key_of(live), _version(live)
        grave, entry = self._graves.get(key), self._entries.get(key)
        if grave and _lies_in(grave, live):
            return False
        self._note(version)
        if entry and version == _version(entry.live) and uid_of(live) == uid_of(entry.live):
            if watched:
                entry.unseen_since = None
            return False
        if entry and _is_older(version, _version(entry.live)):
            if watched and entry.unseen_since is not None:
                entry.unseen_since = self._clock()  # it is on its way
            return False
        self._graves.pop(key, None)
        # What the watch has not shown yet stays so, however often it changes meanwhile.
        since = entry.unseen_since if entry and entry.unseen_since is not None else self._clock()
        self._entries[key] = _Entry(self._keep(live), None if watched else since)
        return True

    def remove(self, last: Json) -> bool:
        """An object was deleted, whose ``last`` state this is; nothing happens where a newer one is known.

        Returns:
            Whether it was news.
        """
        key, version = key_of(last), _version(last)
        self._note(version)
        entry = self._entries.get(key)
        if entry and _outlives(entry.live, last):
            return False
        self._bury(key, _Grave(uid_of(last), version, self._clock()))
        return self._entries.pop(key, None) is not None

    def replace_all(self, listing: Listing, namespace: str | None = None) -> set[str]:
        """Take over a listing of ``namespace`` (None: of all); what happened after it stays.

        Returns:
            Keys of the objects that are gone.
        """
        # A deletion from before the listing: whatever the listing still has was not what was deleted.
        self._graves = {
            key: grave for key, grave in self._graves.items() if not _is_older(grave.version, listing.version)
        }
        self._note(listing.version)
        for live in listing.items:
            self.put(live)
        listed = {key_of(live) for live in listing.items}
        gone = {
            key
            for key, entry in self._entries.items()
            if key not in listed
            and namespace in (None, key.partition("/")[0])
            and not _is_older(listing.version, _version(entry.live))
        }
        for key in gone:
            self._bury(key, _Grave(uid_of(self._entries.pop(key).live), listing.version, self._clock()))
        return gone

    def conflicted(self, key: str, version: str) -> bool:
        """Note that a write on ``version`` was refused because the object is another one by now.

        Returns:
            Whether that has happened before, and nothing newer has come since: somebody must ask for it.
        """
        entry = self._entries.get(key)
        if entry is None or _version(entry.live) != version:
            return False
        before, entry.conflicted = entry.conflicted, True
        return before

    def unseen(self, seconds: float) -> str | None:
        """The key of an object that the watch has not delivered for ``seconds`` since it was known otherwise."""
        due = self._clock() - seconds
        late = (key for key, e in self._entries.items() if e.unseen_since is not None and e.unseen_since < due)
        return next(late, None)

    def _note(self, version: str) -> None:
        number = _number(version)
        if number is not None:
            self._newest = max(self._newest, number)

    def _bury(self, key: str, grave: _Grave) -> None:
        """The oldest grave comes first, so that those that are due are found without looking at all."""
        known = self._graves.pop(key, None)
        self._graves[key] = known if known and _is_older(grave.version, known.version) else grave
        due = self._clock() - GRAVE_SECONDS
        while (oldest := next(iter(self._graves))) != key and self._graves[oldest].at < due:
            del self._graves[oldest]


def key_of(live: Json) -> str:
    """``namespace/name``; of what is in no namespace ``/name``."""
    return f"{live['metadata'].get('namespace', '')}/{live['metadata']['name']}"


def uid_of(live: Json) -> str:
    """Its uid; empty where it has none."""
    return str(live["metadata"].get("uid", ""))


def goes(live: Json) -> bool:
    """Whether somebody has asked to delete it."""
    return bool(live["metadata"].get("deletionTimestamp"))


def trimmed(live: Json) -> Json:
    """With the part of its metadata that is read; an ExpertPlacement that is at its end without its layers, which may
    be a megabyte and by which nothing is decided any more: one empty slot stands for them."""
    metadata = {name: live["metadata"][name] for name in _METADATA if name in live["metadata"]}
    annotations = live["metadata"].get("annotations") or {}
    if ours := {name: str(annotations[name])[:_ANNOTATION] for name in _ANNOTATIONS if name in annotations}:
        metadata["annotations"] = ours
    kept = {**live, "metadata": metadata}
    spec = live.get("spec") or {}
    if "experts" in spec and (scalers := owners(live["metadata"].get("managedFields") or (), *_SHARDS)):
        metadata["managedFields"] = scalers
    if "content" in spec and (live.get("status") or {}).get("phase") in _ENDS:
        kept["spec"] = {**spec, "content": {**spec["content"], "layers": list(_NO_LAYERS)}}
    return kept


def _is_gone(live: Json) -> bool:
    """The last state of an object: who takes the last finalizer off gets it as the answer."""
    return goes(live) and not live["metadata"].get("finalizers")


def _version(live: Json) -> str:
    return str(live["metadata"].get("resourceVersion", ""))


def _number(version: str) -> int | None:
    return int(version) if version.isascii() and version.isdecimal() else None


def _is_older(left: str, right: str) -> bool:
    """Whether ``left`` is surely older; False where they cannot be compared."""
    numbers = _number(left), _number(right)
    return None not in numbers and numbers[0] < numbers[1]  # type: ignore[operator] # neither is None


def _lies_in(grave: _Grave, live: Json) -> bool:
    numbers = _number(grave.version), _number(_version(live))
    if None in numbers:
        return grave.uid == uid_of(live)
    return numbers[1] <= numbers[0]  # type: ignore[operator] # neither is None


def _outlives(live: Json, last: Json) -> bool:
    """Whether ``live`` is there although ``last`` was deleted."""
    if None in (_number(_version(live)), _number(_version(last))):
        return uid_of(live) != uid_of(last)
    return _is_older(_version(last), _version(live))
