"""Applications on Ray that bear the name of a MoEDeployment which is not there (any more).

They are counted and named, never removed: they may be those of another Kubernetes cluster that uses the same Ray.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from moe_contract.applications import application_name
from moe_contract.serve.state import ServeState
from moe_operator.allowance import Allowance
from moe_operator.recent import Recent
from moe_operator.runtimes.ray_cluster.names import owner_of

MOST_PER_RAY = 1000
"""Deployments that are looked at of one Ray cluster: names are a tenant's to choose, and each costs time."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Deployed:
    """Applications of one MoEDeployment, by their names."""

    key: str
    applications: int = 0


@dataclass(slots=True)
class Orphans:
    """What each address of a Ray cluster showed last, and by which Serve controller: one may have several addresses."""

    clock: Callable[[], float] = time.monotonic
    _seen: Recent[str, tuple[str, Mapping[str, _Deployed]]] = field(init=False)
    _named: frozenset[str] = frozenset()
    _lines: Allowance = field(default_factory=lambda: Allowance(burst=20, seconds=60.0))

    def __post_init__(self) -> None:
        self._seen = Recent(clock=self.clock)

    def note(self, dashboard_url: str, serve: ServeState) -> None:
        """What a Ray cluster was seen to run; what is on its way out does not count."""
        if serve.controller:
            self._seen.put(dashboard_url, (serve.controller, _deployed(serve)))

    def count(self, uids: Callable[[str], Collection[str] | None]) -> int:
        """How many there are; those that were not there before are named in the log.

        ``uids``: of the objects of a key (``namespace/name``) that are worked; None where that is not known.
        """
        counts: dict[tuple[str, str], int] = {}
        orphans: dict[str, tuple[str, str]] = {}
        for url, (controller, deployed) in self._seen.items():
            for core, found in deployed.items():
                if _is_orphan(core, found.key, uids(found.key)):
                    # Once by all addresses of a controller. An id is a server's to choose: what one that has chosen
                    # another's shows comes beside what the other shows, never in its place.
                    counts[controller, core] = max(found.applications, counts.get((controller, core), 0))
                    orphans[core] = (found.key, url)
        for core in sorted(orphans.keys() - self._named):
            self._name(core, *orphans[core])
        self._named = frozenset(orphans)
        return sum(counts.values())

    def _name(self, core: str, key: str, url: str) -> None:
        now = self.clock()
        if self._lines.wait(now) > 0.0:
            return
        self._lines.take(now)
        logger.warning(
            "Serve applications %s* at %s are of a MoEDeployment %s that is not there: if no other Kubernetes cluster "
            "has it, remove them (docs/operations.md, 'Applications left behind')",
            core, url, key,
        )  # fmt: skip


def _deployed(serve: ServeState) -> dict[str, _Deployed]:
    """By the name of their core applications."""
    found: dict[str, _Deployed] = {}
    for name, application in serve.applications.items():
        owner = owner_of(name) if application.config is not None else None
        if owner and (owner.core in found or len(found) < MOST_PER_RAY):
            found.setdefault(owner.core, _Deployed(owner.key)).applications += 1
    return found


def _is_orphan(core: str, key: str, uids: Collection[str] | None) -> bool:
    namespace, _, name = key.partition("/")
    return uids is not None and core not in {application_name(namespace, name, uid) for uid in uids}
