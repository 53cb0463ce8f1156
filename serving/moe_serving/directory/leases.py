"""Which epoch every attention replica has reached: an old copy may be freed once nobody routes to it any more.

A replica that was silent for ``LEASE_SECONDS`` counts no more. That is safe: should it wake up with its old table, a
shard answers "not held" and the replica asks elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_serving.directory.messages import AttentionStatus

LEASE_SECONDS = 5.0
"""Longer than an idle replica's report is held and a busy process pauses; short enough that a dead one delays no
migration."""

NOBODY_BEHIND = 2**62
"""The epoch acknowledged where no replica lives: nobody routes by any table."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A replica's last report."""

    epoch: int
    renewed: float
    status: AttentionStatus


class Leases:
    """The leases of all attention replicas. Times are monotonic seconds.

    Args:
        started: when the directory started. A directory that has just started does not know yet who routes by the
            tables of its predecessor: until one lease time has passed, nothing counts as acknowledged.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._leases: dict[str, Lease] = {}

    def renew(self, replica: str, epoch: int, status: AttentionStatus, now: float) -> bool:
        """Take a report; whether it says anything new."""
        before = self._leases.get(replica)
        self._leases[replica] = Lease(epoch, now, status)
        return before is None or (before.epoch, before.status) != (epoch, status)

    def next_end(self, now: float) -> float | None:
        """When the next lease runs out, or the predecessor's replicas count no more; None where nothing does."""
        ends = [lease.renewed + LEASE_SECONDS for lease in self._leases.values()]
        if now - self._started < LEASE_SECONDS:
            ends.append(self._started + LEASE_SECONDS)
        return min(ends, default=None)

    def live(self, now: float) -> dict[str, Lease]:
        """The leases by replica; those that have run out are forgotten."""
        self._leases = {r: lease for r, lease in self._leases.items() if now - lease.renewed < LEASE_SECONDS}
        return self._leases

    def reached(self, now: float) -> int:
        """The highest epoch that no replica that reports is behind."""
        return min((lease.epoch for lease in self.live(now).values()), default=NOBODY_BEHIND)

    def acknowledged(self, now: float) -> int:
        """The highest epoch that nobody at all is behind."""
        return -1 if now - self._started < LEASE_SECONDS else self.reached(now)
