"""Which shards must leave their nodes, and which pods go: a table of what a node does and what its shard holds. Pure.

| node | shard holds experts | it holds nothing, is sent nothing | no shard in the pod | nothing in the pod answers |
|---|---|---|---|---|
| leaves | it is emptied | its pod is deleted | the pod is deleted first | as if it did |
| silent | it is emptied | | | |
| unheard | it is emptied | | | the pod is removed by force, but one of attention |
| out | it is emptied | | | the pod is removed by force |

A pod without a shard goes before those with one, since Ray knows nothing of cordons and would start the shard there.
A directory that was restarted says nothing of what shards hold before it knows its model: until then no pod goes in
good order, for attention is answered from there. Then it hears of shards one by one: while one is missed that is to
hold something, no pod goes that may be that one's.
By force is only removed what two say is dead: Kubernetes does not hear of its node, and no process in it has answered
the directory for a while. A head that gives no report, but answers, lives: an error says nothing of its node. Where
Kubernetes hears of none of a deployment's nodes, it is Kubernetes that is cut off. A pod of attention may hold an api
or the directory alone, of which no report says where they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address

from moe_contract.report import DirectoryReport, ShardReport
from moe_operator.api.names import COMPONENT_ATTENTION, COMPONENT_HEAD, COMPONENT_SHARD
from moe_operator.api.status import time_told
from moe_operator.kube.api import Json
from moe_operator.kube.store import goes, uid_of
from moe_operator.runtimes.kube_ray.evictions import COMING_SECONDS, Pods
from moe_operator.runtimes.kube_ray.manifests.names import WORKER_CONTAINER
from moe_operator.runtimes.kube_ray.nodes import NodeState
from moe_operator.runtimes.kube_ray.pods import component_of, is_ready, node_of
from moe_operator.runtimes.kube_ray.spread import Apis

SILENT_SECONDS, SILENT_LOOKS = 10.0, 3
"""For which, and how often in that time, nothing in a pod must have answered: a directory that was restarted hears of
what runs within seconds."""
_DEAD = (NodeState.UNHEARD, NodeState.OUT)


@dataclass(frozen=True, slots=True)
class Removal:
    """A pod that is to go; ``by_force``: without waiting for its node to end what runs in it."""

    pod: Json
    by_force: bool
    why: str


@dataclass(frozen=True, slots=True)
class PodsOnNodes:
    """The pods of the Ray cluster that answers.

    Attributes:
        pods: those that did not end; those that were asked to go included.
        state_of: what its node does to a pod.
    """

    pods: Sequence[Json]
    state_of: Callable[[Json], NodeState]

    def moved(self, report: DirectoryReport | None) -> frozenset[int]:
        """Shards that must leave their nodes. One that was emptied for that stays empty until it answers elsewhere."""
        if report is None:
            return frozenset()
        of_shards = self._of_shards()
        hosts = ((shard, of_shards.get(_canon(shard.host))) for shard in report.shards)
        hidden = bool(self._unheard_of(report))
        return frozenset(shard.index for shard, pod in hosts if self._moves(shard, pod, hidden))

    def _moves(self, shard: ShardReport, pod: Json | None, hidden: bool) -> bool:
        """``pod``: that it is in; ``hidden``: whether it may be in one that leaves, if it has not been heard of."""
        if not shard.host:
            return hidden and shard.wanted == 0
        if pod is None:
            return shard.phase == "Lost" and shard.wanted == 0
        return self.state_of(pod) is not NodeState.STAYS

    def silent(self, report: DirectoryReport | None) -> list[Json]:
        """Pods on dead nodes in which nothing answers, and those for shards on nodes that leave. Without a report,
        since nothing answers where it is asked for, the head: of others nothing is known then."""
        on_dead = [pod for pod in self.pods if self.state_of(pod) in _DEAD]
        if report is None:
            return [pod for pod in on_dead if _is(pod, COMPONENT_HEAD)]
        if not _tells_hosts(report):
            return []
        return [*(pod for pod in on_dead if not _answers(pod, report)), *self._unused(report)]

    def serving(self, report: DirectoryReport | None, is_away: bool = False) -> int | None:
        """Pods of attention that stay and have a replica that is ready, before which Serve's proxy makes them ready;
        None where one does not tell where it is, or why there is no report may last: that its key is not taken says
        nothing of attention. ``is_away``: whether the directory may not be there, and attention with it."""
        if report is None:
            return 0 if is_away else None
        ready = {_canon(replica.host) for replica in report.attention if replica.ready}
        if "" in ready:
            return None
        return sum(_is(pod, COMPONENT_ATTENTION) and not goes(pod) and _address(pod) in ready for pod in self.pods)

    def loses_copies(self, report: DirectoryReport | None) -> bool:
        """Whether a shard that holds experts is in a pod that is on its way out, and answers still."""
        if report is None:
            return False
        leaving = {_address(pod) for pod in self.pods if _is(pod, COMPONENT_SHARD) and goes(pod)} - {""}
        return any(shard.held and _canon(shard.host) in leaving for shard in report.shards)

    def for_shards(self) -> int:
        """Pods for shards that are not on their way out, spares among them."""
        return sum(_is(pod, COMPONENT_SHARD) and not goes(pod) for pod in self.pods)

    def apis(self, report: DirectoryReport | None) -> Apis | None:
        """Where api processes answer; None where that is not known, as of a data plane of release 0.2.0."""
        if report is None or not report.apis or not all(api.host for api in report.apis):
            return None
        ready = {_canon(replica.host) for replica in report.attention if replica.ready}
        rooms = {_address(pod) for pod in self.pods if _is(pod, COMPONENT_ATTENTION) and not goes(pod)} & ready
        found = Counter(host for host in (_canon(api.host) for api in report.apis if api.ready) if host in rooms)
        return Apis(len(rooms), len(found), max(found.values(), default=0))

    def since(self, component: str, then: datetime, now: datetime) -> Pods:
        """Those of a component, and which of them have run since before ``then``."""
        there = [pod for pod in self.pods if _is(pod, component) and not goes(pod)]
        before = [pod for pod in there if _ran_at(pod, then)]
        coming = sum(not is_ready(pod) and _began_of_late(pod, now) for pod in there)
        return Pods(len(before), sum(map(is_ready, before)), sum(map(is_ready, there)), len(there), coming)

    def removals(self, report: DirectoryReport | None, revision: int, silent: Collection[str]) -> list[Removal]:
        """Pods that go now. ``revision``: of the placement wanted; ``silent``: uids of those that are for long."""
        why = "its node is not heard of, is off or was removed, and nothing in it answers"
        lasting = [pod for pod in self.silent(report) if uid_of(pod) in silent]
        dead = [Removal(pod, True, why) for pod in lasting if self._is_dead(pod) and not _is_kept(pod)]
        return dead or ([] if report is None else self._in_good_order(report, revision, lasting))

    def _is_dead(self, pod: Json) -> bool:
        """Of one that is silent, by its node."""
        if self.state_of(pod) not in _DEAD:
            return False
        if self.state_of(pod) is NodeState.OUT:
            return True
        return not _is(pod, COMPONENT_ATTENTION) and any(map(self._is_heard, self.pods))

    def _is_heard(self, pod: Json) -> bool:
        return bool(node_of(pod)) and self.state_of(pod) not in _DEAD

    def _in_good_order(self, report: DirectoryReport, revision: int, lasting: Sequence[Json]) -> list[Removal]:
        of_shards = self._of_shards()
        answering = [_canon(shard.host) for shard in report.shards if shard.phase == "Ready"]
        if report.model is None or report.revision != revision or not all(host in of_shards for host in answering):
            return []  # which shard is in which pod is not known, or what it holds and shall hold
        shards = {_canon(shard.host): shard for shard in report.shards if shard.host}
        if unused := self._unused(report):
            all_heard = all(shard.host for shard in report.shards)
            certain = unused if all_heard else [pod for pod in unused if pod in lasting]
            return _asked_to_go(certain, "its node goes away, and no shard is in it")
        leaving = {host: pod for host, pod in of_shards.items() if self.state_of(pod) is NodeState.LEAVES}
        empty = [pod for host, pod in leaving.items() if host in shards and report.is_emptied(shards[host])]
        return _asked_to_go(empty, "its node goes away, and its shard is empty")

    def _unused(self, report: DirectoryReport) -> list[Json]:
        """Pods for shards, on nodes that leave, in which no shard is that anybody needs: in which one is that was not
        heard of nobody can say."""
        if report.model is None or not report.shards:
            return []
        unheard = (shard for shard in report.shards if not shard.host)
        return self._unheard_of(report) if all(map(report.is_emptied, unheard)) else []

    def _unheard_of(self, report: DirectoryReport) -> list[Json]:
        """Pods for shards, on nodes that leave, in which no shard is that was ever heard of."""
        heard = {_canon(shard.host) for shard in report.shards if shard.host}
        found = self._of_shards().items()
        return [pod for host, pod in found if host not in heard and self.state_of(pod) is NodeState.LEAVES]

    def _of_shards(self) -> dict[str, Json]:
        """Pods for shards, by address."""
        found = ((_address(pod), pod) for pod in self.pods if _is(pod, COMPONENT_SHARD))
        return {address: pod for address, pod in found if address}


@dataclass(slots=True)
class Silence:
    """Since when nothing has answered in the silent pods of a deployment, and how often that was seen; by uid."""

    _since: dict[str, tuple[float, int]] = field(default_factory=dict)

    def look(self, silent: Iterable[Json], now: float) -> None:
        """These are silent, and no others."""
        seen = ((uid, self._since.get(uid, (now, 0))) for uid in map(uid_of, silent))
        self._since = {uid: (since, looks + 1) for uid, (since, looks) in seen}

    def lasting(self, now: float) -> frozenset[str]:
        """Uids of those that have been silent for long."""
        found = self._since.items()
        return frozenset(
            uid for uid, (since, looks) in found if now - since >= SILENT_SECONDS and looks >= SILENT_LOOKS
        )


def _asked_to_go(pods: Iterable[Json], why: str) -> list[Removal]:
    return [Removal(pod, False, why) for pod in pods if not goes(pod)]


def _tells_hosts(report: DirectoryReport) -> bool:
    """Whether it says of all that answers where it runs; a data plane of release 0.1.0 does not."""
    shards = all(shard.host for shard in report.shards if shard.phase == "Ready")
    return shards and all(replica.host for replica in report.attention)


def _answers(pod: Json, report: DirectoryReport) -> bool:
    """Whether anything in it does, ready or not."""
    if _is(pod, COMPONENT_HEAD):
        return True  # the report came through it
    shards = (shard.host for shard in report.shards if shard.phase != "Lost")
    attention = (replica.host for replica in report.attention)
    address = _address(pod)
    return bool(address) and address in map(_canon, (*shards, *attention))


def _is(pod: Json, component: str) -> bool:
    return component_of(pod) == component


def _ran_at(pod: Json, then: datetime) -> bool:
    """Whether Ray has run in it since before a time, of which Kubernetes tells whole seconds."""
    begun = _begun(pod)
    return begun is not None and begun <= then


def _began_of_late(pod: Json, now: datetime) -> bool:
    """By its node's clock, which may be ahead."""
    begun = _begun(pod)
    return begun is not None and abs((now - begun).total_seconds()) < COMING_SECONDS


def _begun(pod: Json) -> datetime | None:
    """Since when Ray has run in a worker's pod. What others put beside it, as a service mesh its proxy, may have been
    restarted since, and nothing of ours is lost by that."""
    for each in (pod.get("status") or {}).get("containerStatuses") or ():
        if each.get("name") == WORKER_CONTAINER:
            return time_told(str(((each.get("state") or {}).get("running") or {}).get("startedAt")))
    return None


def _is_kept(pod: Json) -> bool:
    """Whether it was asked to go, and only finalizers of others keep it."""
    return goes(pod) and bool(pod["metadata"].get("finalizers"))


def _address(pod: Json) -> str:
    """Empty while it has none."""
    return _canon((pod.get("status") or {}).get("podIP"))


def _canon(address: str | None) -> str:
    """An address in one spelling; as it is, where it is none."""
    try:
        return str(ip_address(address or ""))
    except ValueError:
        return address or ""
