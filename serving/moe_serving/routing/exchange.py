"""Statistics on their way between a replica and the directory, beside its reports. Pure.

The directory keeps the newest of each replica, and those that dead ones left, the legacy; each replica keeps the legacy
too, unread. So it outlives either: a directory that has restarted says what it lacks, and is given it. What each has
is told with every report, in a few bytes; the statistics themselves go by calls of their own (``routing.statistics``).
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_serving.routing.gatherer import Gathered


@dataclass(frozen=True, slots=True)
class Legacy:
    """What replicas that are gone have left.

    Attributes:
        digest: of the model.
        gathered: all of it together.
        adopted: what is in it of former clusters, by the names under which the directory took it: not to be added
            again.
    """

    digest: str
    gathered: Gathered
    adopted: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        """A higher one has more in it."""
        return self.gathered.number


@dataclass(frozen=True, slots=True)
class StatisticsTold:
    """What a replica hands over.

    Attributes:
        gathered: its own, where the directory has not said that it has them.
        legacy_version: of the legacy that it keeps; 0 for none.
        legacy: the one that it keeps, where the directory has asked for it.
    """

    gathered: Gathered | None = None
    legacy_version: int = 0
    legacy: Legacy | None = None


@dataclass(frozen=True, slots=True)
class StatisticsKnown:
    """What the directory has.

    Attributes:
        digest: of its model.
        number: of the replica's statistics; 0 for none.
        legacy_version: of the legacy; 0 for none.
        wants_legacy: it asks this replica for the legacy that it keeps.
    """

    digest: str
    number: int = 0
    legacy_version: int = 0
    wants_legacy: bool = False


@dataclass(frozen=True, slots=True)
class StatisticsHeard:
    """What the directory answers to statistics.

    Attributes:
        known: what it has now; None where it takes none: it does not know the model, or the replica has another one.
        legacy: where it is newer than the one that the replica keeps.
    """

    known: StatisticsKnown | None = None
    legacy: Legacy | None = None


class StatisticsExchange:
    """A replica's side."""

    def __init__(self) -> None:
        self._latest: Gathered | None = None
        self._legacy: Legacy | None = None
        self._known: StatisticsKnown | None = None

    @property
    def is_delivered(self) -> bool:
        """Whether the directory has all of our own that we would tell."""
        return self._latest is None or (self._known is not None and self._latest.number == self._known.number)

    @property
    def is_due(self) -> bool:
        """Whether one of both has what the other lacks, and the directory takes any."""
        known = self._known
        if known is None:
            return False
        wanted = known.wants_legacy and self._legacy is not None
        return not self.is_delivered or wanted or known.legacy_version > self.legacy_version

    @property
    def legacy_version(self) -> int:
        """Of the legacy that we keep; 0 for none."""
        return self._legacy.version if self._legacy else 0

    def keep(self, gathered: Gathered | None) -> None:
        """Our own, to be told next."""
        self._latest = gathered or self._latest

    def tell(self) -> StatisticsTold:
        wanted = self._known is not None and self._known.wants_legacy
        return StatisticsTold(
            None if self.is_delivered else self._latest, self.legacy_version, self._legacy if wanted else None
        )

    def hear(self, known: StatisticsKnown | None, legacy: Legacy | None = None) -> None:
        """What the directory has now. A legacy of another model than its own is of no use any more."""
        self._known = known
        self._legacy = legacy or self._legacy
        if known is not None and self._legacy is not None and self._legacy.digest != known.digest:
            self._legacy = None
