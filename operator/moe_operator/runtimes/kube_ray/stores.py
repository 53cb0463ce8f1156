"""What is known of pods and nodes beside how they are: how a pod ended, and which nodes were removed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from moe_operator.finding import Finding
from moe_operator.kube.api import Json, Listing
from moe_operator.kube.child_watch import key_of_owner
from moe_operator.kube.store import ObjectStore
from moe_operator.runtimes.kube_ray.nodes import NodeState, node_state, trimmed_node
from moe_operator.runtimes.kube_ray.pods import cluster_of, ended, node_of, trimmed_pod

ENDED_SECONDS = 60.0
"""For which it is told how a pod ended."""
_MOST_REMOVED = 1024


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Pods by the key of their deployment, and keys of deployments by the node of their pods."""

    pods: dict[str, list[Json]] = field(default_factory=dict)
    owners: dict[str, set[str]] = field(default_factory=dict)


class PodStore(ObjectStore):
    """Of pods; and how one of a deployment ended by itself last, since KubeRay deletes it at once for another."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock, trimmed_pod, lingers=True)
        self._ends: dict[str, tuple[float, str | None, Finding]] = {}
        self._sorted: _Sorted | None = None

    def of(self, key: str) -> list[Json]:
        """Pods of the deployment ``key``."""
        return list(self._by_key().pods.get(key, ()))

    def owners_on(self, node: str) -> frozenset[str]:
        """Keys of the deployments with pods on a node."""
        return frozenset(self._by_key().owners.get(node, ()))

    def _by_key(self) -> _Sorted:
        """Of all deployments and nodes it is found at once, after a pod has changed."""
        if self._sorted is None:
            self._sorted = _Sorted()
            for pod in self.all():
                key = key_of_owner(pod)
                self._sorted.pods.setdefault(key, []).append(pod)
                self._sorted.owners.setdefault(node_of(pod), set()).add(key)
        return self._sorted

    def put(self, live: Json, watched: bool = False) -> bool:
        """See ``ObjectStore``."""
        news = super().put(live, watched)
        if news:
            self._sorted = None
        if news and (why := ended(live)):
            self._ends.pop(key_of_owner(live), None)
            self._ends[key_of_owner(live)] = (self._clock(), cluster_of(live), why)
        return news

    def remove(self, last: Json) -> bool:
        """See ``ObjectStore``."""
        self._sorted = None
        return super().remove(last)

    def replace_all(self, listing: Listing, namespace: str | None = None) -> set[str]:
        """See ``ObjectStore``."""
        self._sorted = None
        return super().replace_all(listing, namespace)

    def end(self, key: str, cluster: str | None) -> Finding | None:
        """How a pod of the deployment ``key``, of this Ray cluster, ended lately."""
        due = self._clock() - ENDED_SECONDS
        while self._ends and next(iter(self._ends.values()))[0] < due:
            del self._ends[next(iter(self._ends))]
        found = self._ends.get(key)
        return found[2] if found and found[1] == cluster else None


class NodeStore(ObjectStore):
    """Of nodes; and which were removed, of those that were known: another that is not known may be too new."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock, trimmed_node)
        self._removed: dict[str, None] = {}

    def put(self, live: Json, watched: bool = False) -> bool:
        """See ``ObjectStore``."""
        news = super().put(live, watched)
        if news:
            self._removed.pop(f"/{live['metadata']['name']}", None)
        return news

    def remove(self, last: Json) -> bool:
        """See ``ObjectStore``."""
        news = super().remove(last)
        if news:
            self._note([f"/{last['metadata']['name']}"])
        return news

    def replace_all(self, listing: Listing, namespace: str | None = None) -> set[str]:
        """See ``ObjectStore``."""
        gone = super().replace_all(listing, namespace)
        self._note(gone)
        return gone

    def _note(self, keys: Iterable[str]) -> None:
        self._removed |= dict.fromkeys(keys)
        while len(self._removed) > _MOST_REMOVED:
            del self._removed[next(iter(self._removed))]

    def state_for(self, pod: Json) -> NodeState:
        """What its node does to a pod; of a node that is not known, nothing."""
        key = f"/{node_of(pod)}"
        node = self.get(key)
        if node is not None:
            return node_state(node, pod)
        return NodeState.OUT if key in self._removed else NodeState.STAYS
