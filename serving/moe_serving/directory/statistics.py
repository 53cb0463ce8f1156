"""Statistics of all traffic: the newest of each attention replica, what dead ones and a former cluster left, and all of
it merged.

Packed they are kept, and unpacked only to be merged, in a thread: when somebody plans, or a replica is gone for good.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from moe_contract.applications import STATISTICS_SECONDS
from moe_contract.model import ModelFacts
from moe_placement import InvalidStatisticsError, MismatchError
from moe_placement.statistics import RoutingStatistics, decode_statistics, encode_statistics
from moe_serving.directory.messages import StatisticsReport, other_model
from moe_serving.routing.exchange import Legacy, StatisticsHeard, StatisticsKnown
from moe_serving.routing.gatherer import LEAST_WEIGHT, Gathered, half_life_of, weight_after

GONE_SECONDS = 45.0
"""A replica that was silent for so long is not coming back: Serve ends a frozen one after half a minute. Earlier, its
statistics could come to be counted twice; a directory that dies in between takes them with it."""
FORMER = "former cluster "
"""Begins the name under which a former cluster's statistics are kept, beside those of replicas; the cluster's name
follows."""
_UNNAMED = f"{FORMER}without a name "
"""The same, where the cluster's name is not told; a digest of the bytes follows. No name of a cluster has a space."""
MOST_PENDING = 2
"""Former clusters whose statistics are kept beside the legacy, since each may tell megabytes."""
MOST_ADOPTED = 16
"""So many former clusters are remembered, the latest: nobody hands over again what an earlier one told."""
ASK_SECONDS = 30.0
"""So long one replica is asked for the legacy before another is: all keep the same."""

_NO_ROOM = "statistics of others are being merged: tell again in a minute"

logger = logging.getLogger(__name__)


class StatisticsStore:
    """Keeps and merges statistics; for one event loop.

    Args:
        facts: of the model; statistics of another one are left out.
        clock: seconds since the epoch.
    """

    def __init__(self, facts: ModelFacts, clock: Callable[[], float] = time.time) -> None:
        self._facts = facts
        self._clock = clock
        self._of: dict[str, Gathered] = {}
        self._heard_of: dict[str, float] = {}
        self._legacy: Legacy | None = None
        self._asked, self._asked_at = "", -ASK_SECONDS
        self._merged: tuple[tuple[Gathered, ...], bytes | None] = ((), None)
        self._merging = asyncio.Lock()

    def known(self, replica: str, digest: str | None, legacy_version: int) -> StatisticsKnown | None:
        """What there is of a replica that reports, and so lives. None where it has another model.

        Args:
            digest: of the replica's model, None while it has none.
            legacy_version: of the legacy that it keeps.
        """
        if other_model(digest, self._facts.digest) is not None:
            return None
        self._heard_of[replica] = self._clock()
        wants = legacy_version > self._legacy_version and self._asks(replica)
        return self._known(replica, wants)

    def take(self, report: StatisticsReport) -> StatisticsHeard:
        """Take what a replica hands over; the answer to it."""
        told, replica, now = report.told, report.replica, self._clock()
        if other_model(report.digest, self._facts.digest) is not None:
            return StatisticsHeard()
        self._heard_of[replica] = now
        if told.gathered is not None:
            self._of[replica] = _not_of_the_future(told.gathered, now)
        left = told.legacy
        if left is not None and left.digest == self._facts.digest and left.version > self._legacy_version:
            self._legacy = left
            for name in left.adopted:  # told again before it was known that they are part of it
                self._of.pop(name, None)
        news = self._legacy if self._legacy_version > told.legacy_version else None
        return StatisticsHeard(self._known(replica, wants_legacy=False), news)

    async def adopt(self, packed: bytes, source: str = "") -> str | None:
        """Take what the directory of a former cluster had merged, which nobody there can tell any more; returns why
        not, if it is not taken.

        It counts as the statistics of a replica that dies now. Told again it counts once: as it was told last, until it
        is part of the legacy, and as it is in that from then on, also in a directory that was restarted.

        Args:
            source: the name of the former cluster; empty where it is not told: then the same bytes are the same, and
                others take the place of those that are not yet part of the legacy.
        """
        name = f"{FORMER}{source}" if source else _UNNAMED + hashlib.sha256(packed).hexdigest()
        if name in self._adopted:
            return None
        if not self._has_room(name):
            return _NO_ROOM
        try:
            shape = (await asyncio.to_thread(decode_statistics, packed)).shape
        except InvalidStatisticsError as error:
            return f"these are no statistics: {error}"
        if (shape.layers, shape.experts) != (self._facts.layers, self._facts.experts):
            return f"these are statistics of another model: {shape}"
        # Others may have come meanwhile.
        if name in self._adopted:
            return None
        if not self._has_room(name):
            return _NO_ROOM
        now = self._clock()
        for former in [each for each in self._of if _takes_place_of(name, each)]:
            del self._of[former], self._heard_of[former]
        # All fade by the half-life of the newest; this is that of who comes first only until there is traffic.
        self._of[name] = Gathered(1, now, packed, half_life_of(STATISTICS_SECONDS))
        self._heard_of[name] = now
        return None

    async def merged(self) -> bytes | None:
        """``encode_statistics`` of all together; None before any traffic was told of."""
        async with self._merging:
            parts = self._parts(self._of)
            if parts != self._merged[0]:
                self._merged = (parts, (await asyncio.to_thread(_merge, parts, self._facts)))
            return self._merged[1]

    async def inherit(self) -> None:
        """Make statistics of replicas that are gone part of the legacy."""
        async with self._merging:
            now = self._clock()
            gone = {replica: heard for replica, heard in self._heard_of.items() if now - heard >= GONE_SECONDS}
            left = [replica for replica in gone if replica in self._of]
            before = self._legacy
            if left:
                parts = self._parts(left)
                packed = await asyncio.to_thread(_merge, parts, self._facts)
                # Meanwhile a replica may have handed over another legacy, or one of these may have been heard of, which
                # would count in the legacy and by itself, too: the next look begins with what there is then.
                if self._legacy is not before or any(self._heard_of.get(each) != gone[each] for each in gone):
                    return
                if packed is not None:
                    newest = _newest(parts)
                    gathered = replace(newest, number=self._legacy_version + 1, packed=packed)
                    adopted = (*self._adopted, *(name for name in left if name.startswith(FORMER)))
                    self._legacy = Legacy(self._facts.digest, gathered, adopted[-MOST_ADOPTED:])
            for replica in gone:
                self._heard_of.pop(replica, None)
                self._of.pop(replica, None)

    def _has_room(self, name: str) -> bool:
        """Whether what a former cluster tells can be kept until it is part of the legacy."""
        others = [each for each in self._of if each.startswith(FORMER) and each != name]
        return sum(not _takes_place_of(name, each) for each in others) < MOST_PENDING

    def _known(self, replica: str, wants_legacy: bool) -> StatisticsKnown:
        told = self._of.get(replica)
        return StatisticsKnown(self._facts.digest, told.number if told else 0, self._legacy_version, wants_legacy)

    def _asks(self, replica: str) -> bool:
        """Whether a replica that has a newer legacy is the one to hand it over: one at a time."""
        now = self._clock()
        if not 0 <= now - self._asked_at < ASK_SECONDS:
            self._asked, self._asked_at = replica, now
        return replica == self._asked

    @property
    def _adopted(self) -> tuple[str, ...]:
        return self._legacy.adopted if self._legacy else ()

    @property
    def _legacy_version(self) -> int:
        return self._legacy.version if self._legacy else 0

    def _parts(self, replicas: Collection[str]) -> tuple[Gathered, ...]:
        left = [self._legacy.gathered] if self._legacy else []
        return (*left, *(self._of[replica] for replica in sorted(replicas)))


def _takes_place_of(name: str, other: str) -> bool:
    """Whether it may be the same former cluster, which has told more since."""
    return name != other and name.startswith(_UNNAMED) and other.startswith(_UNNAMED)


def _not_of_the_future(gathered: Gathered, now: float) -> Gathered:
    """What was gathered, at the latest now: a node whose clock is ahead must not make all others look old."""
    return replace(gathered, at=min(gathered.at, now))


def _newest(parts: Sequence[Gathered]) -> Gathered:
    return max(parts, key=lambda part: part.at)


def _merge(parts: Sequence[Gathered], facts: ModelFacts) -> bytes | None:
    """Older parts weigh less, all by the half-life of the newest: keys that moved differently would not be known again.

    What weighs nothing leaves. One that cannot be read, or merged with those before it, is left out, and said so.
    """
    if not parts:
        return None
    newest = _newest(parts)
    merged: RoutingStatistics | None = None
    for part in parts:
        weight = weight_after(newest.at - part.at, newest.half_life)
        if weight <= LEAST_WEIGHT:
            continue
        try:
            statistics = decode_statistics(part.packed)
        except InvalidStatisticsError as error:
            logger.warning("statistics of an attention replica are left out: %s", error)
            continue
        if (statistics.shape.layers, statistics.shape.experts) != (facts.layers, facts.experts):
            logger.warning("statistics of another model are left out: %s", statistics.shape)
            continue
        statistics.decay(weight)
        if merged is None:
            merged = statistics
            continue
        try:
            merged.merge(statistics)
        except (MismatchError, InvalidStatisticsError) as error:
            logger.warning("statistics that do not fit the others are left out: %s", error)
    return encode_statistics(merged) if merged is not None else None
