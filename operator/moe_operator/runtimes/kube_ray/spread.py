"""That api processes answer in more than one pod, so that no pod takes all of them with it. Pure.

Serve starts them where a pod of attention has room, and moves none when another pod comes: after a node was drained,
all are in the pod that was left, and when that one goes, requests wait for seconds until others have started. So one
more is asked for, within ``spec.api``: Ray starts processes in one pod after the other. It stays where the pod with
most has no more than ``minReplicas``, since Serve would stop the one in the emptier pod first. Where it has more, as
after several drains or a peak, Serve may stop what nobody needs, and the next one comes from there: it settles at one
more than ``minReplicas``. Where Serve stops the one in the emptier pod and no other, load needs the rest: one more than
that stays for an hour before it is tried again (``Needed``). Until one answers elsewhere, no pod of attention is
evicted, for two minutes at most.

An api that Serve stops answers for as long as its requests take, ten minutes at most, and until then may be taken for
one that load needs. That costs one process more, until fewer are seen in its pod. No drain waits for it: in a pod that
is on its way out no api counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_contract.applications import API
from moe_contract.serve.merge import Config
from moe_operator.api import MoEDeployment

TELLS_APIS = 2
"""The contract since which a directory tells where apis run."""
APART_SECONDS = 120.0
"""For which evictions wait for an api in another pod: its start takes ten seconds, on a busy node many times that."""
KEPT_SECONDS = 3600.0
"""For which Serve is not left to stop what load was seen to need: it tries ten minutes after it needed more."""


@dataclass(frozen=True, slots=True)
class Apis:
    """Where api processes answer.

    Attributes:
        rooms: pods of attention in which a replica is ready, and that are not on their way out.
        pods: of these, in which an api is.
        most: apis in the one with most of them.
    """

    rooms: int
    pods: int
    most: int

    def come_apart(self, moe: MoEDeployment) -> bool:
        """Whether they are in one pod where there are others, or in none, and more of them may run."""
        return self.pods < 2 <= self.rooms and self.most < moe.spec.api.max_replicas


def least_apis(moe: MoEDeployment, apis: Apis | None, told: int | None, needed: int = 0) -> int:
    """How many shall run at least. ``told``: what Serve was told last, where it is not known where they run;
    ``needed``: in the pod with most of them, as ``Needed`` has it."""
    bounds = moe.spec.api
    if apis is None:
        wanted = told or 0
    elif apis.rooms < 2:
        wanted = 0
    elif apis.pods < 2:
        wanted = apis.most + 1 if apis.most < bounds.max_replicas else 0
    else:
        wanted = apis.most + 1 if apis.most <= max(bounds.min_replicas, needed) else 0
    return min(max(wanted, bounds.min_replicas), bounds.max_replicas)


def least_told(core: Config | None) -> int | None:
    """What Serve was told, by the configuration of the core application; None where that cannot be read."""
    try:
        found = next(each for each in (core or {})["deployments"] if each["name"] == API)
        least = found["autoscaling_config"]["min_replicas"]
    except (KeyError, TypeError, StopIteration):
        return None
    return least if isinstance(least, int) and not isinstance(least, bool) else None


@dataclass(slots=True)
class Needed:
    """How many apis in one pod load was seen to need, so that one in another pod is not stopped and started for ever.

    Attributes:
        _left: apis in the pod with most of them, when Serve was left to stop some; 0 where it was not.
    """

    _left: int = 0
    _needed: int = 0
    _until: float = float("-inf")

    def look(self, moe: MoEDeployment, apis: Apis | None, now: float) -> int:
        """0 for no more than ``minReplicas``. ``apis``: None where it is not known, by which nothing is seen; ``now``
        is monotonic."""
        if apis is not None and apis.most < self._needed:
            self._needed = 0  # some of those that were seen were being stopped, or the pod with them is gone
        if apis is not None and apis.pods >= 2:
            kept = self._needed if now < self._until else 0
            self._left = apis.most if apis.most > max(moe.spec.api.min_replicas, kept) else 0
        elif apis is not None:
            if 0 < self._left <= apis.most and apis.rooms >= 2:
                self._needed, self._until = apis.most, now + KEPT_SECONDS
            self._left = 0
        return self._needed if now < self._until else 0


@dataclass(slots=True)
class Together:
    """Since when apis have been in one pod, and another one was waited for."""

    _since: float | None = None

    def lasts(self, together: bool | None, now: float) -> bool:
        """Whether evictions wait for another one. ``together``: None where it is not known, by which no wait begins or
        ends; ``now`` is monotonic."""
        if together is not None:
            self._since = (now if self._since is None else self._since) if together else None
        return self._since is not None and now - self._since < APART_SECONDS
