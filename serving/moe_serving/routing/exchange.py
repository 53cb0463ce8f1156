"""Statistics on their way between a replica and the directory, beside its reports. Pure.

The directory keeps the newest of each replica, and those that dead ones left; each replica keeps a copy of the latter,
unread. So either outlives the other: a directory that has restarted says what it lacks, and is given it.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_serving.routing.gatherer import Gathered


@dataclass(frozen=True, slots=True)
class Legacy:
    """What replicas that are gone have left.

    Attributes:
        version: a higher one has more in it.
        digest: of the model.
        gathered: all of it together.
    """

    version: int
    digest: str
    gathered: Gathered


@dataclass(frozen=True, slots=True)
class StatisticsTold:
    """What a replica says.

    Attributes:
        gathered: its own, where the directory has not said that it has them.
        legacy_version: of the copy that it keeps; 0 for none.
        legacy: that copy, where the directory has asked for it.
    """

    gathered: Gathered | None = None
    legacy_version: int = 0
    legacy: Legacy | None = None


@dataclass(frozen=True, slots=True)
class StatisticsHeard:
    """What the directory answers.

    Attributes:
        number: of the replica's statistics that it has; 0 for none.
        legacy_version: of the legacy that it has; 0 for none.
        legacy: where it is newer than the replica's copy.
    """

    number: int = 0
    legacy_version: int = 0
    legacy: Legacy | None = None


class StatisticsExchange:
    """A replica's side."""

    def __init__(self) -> None:
        self._latest: Gathered | None = None
        self._legacy: Legacy | None = None
        self._heard = StatisticsHeard()

    @property
    def is_delivered(self) -> bool:
        """Whether the directory has all that we would tell."""
        return self._latest is None or self._latest.number == self._heard.number

    def keep(self, gathered: Gathered | None) -> None:
        """Our own, to be told next."""
        self._latest = gathered or self._latest

    def tell(self) -> StatisticsTold:
        legacy, version = self._legacy, self._legacy.version if self._legacy else 0
        return StatisticsTold(
            None if self.is_delivered else self._latest,
            version,
            legacy if self._heard.legacy_version < version else None,
        )

    def hear(self, heard: StatisticsHeard) -> None:
        self._heard = heard
        if heard.legacy is not None:
            self._legacy = heard.legacy
