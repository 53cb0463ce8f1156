"""How many pods must stay when others evict some, as ``kubectl drain`` does, also while nobody tells what is in
them. Pure.

While the directory tells which shards hold what:

| role | may go |
|---|---|
| attention | one of ``attention.minReplicas``; none while fewer of these answer, or all apis are in one (``spread``) |
| experts | as many as copies are beyond the first, or as shards hold nothing; none while copies are made, or lost |

Which pod is evicted nobody can say, so the two of the second line are not added. A spare turns ready with the shard of
a pod that was evicted, and would make room for another eviction before its experts are there: so copies count as lost
from the moment a pod with a shard is on its way out, and where none may go all pods must stay that there are.

While it does not tell, any pod may be the last of its kind, so that none goes: it is back within seconds, as a rule.
Where it is not, a node must not wait for ever. After ``UNTOLD_SECONDS`` those count that have run since before it fell
silent; what came later has been told nothing, and answers nobody without it:

| role | may go |
|---|---|
| attention | one at a time, but the last of them |
| experts | one at a time, of so many as copies are beyond the first, if all were in place when that was told last |
| both | one at a time, once none of attention is left, or as many shards are lost that ran as there are copies |

A pod that turns ready counts for its budget at once, before that is written anew, so that another one more might go:
while one is about to (``COMING_SECONDS``), none goes that answers, unless nobody is answered.

By what is left in the last line nobody is answered. A directory that is there, and whose report is not to be had, as
when it does not take the operator's key, tells those that come what they need. So one of ``attention.minReplicas`` may
go, and what is lost nobody can say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moe_contract.report import DirectoryReport
from moe_operator.api import MoEDeployment, Reason
from moe_operator.api.names import ANNOTATION_UNTOLD_SINCE
from moe_operator.api.status import TIME_FORMAT, time_told
from moe_operator.finding import Finding
from moe_operator.runtimes.kube_ray.manifests.names import LABEL_CLUSTER

UNTOLD_SECONDS = 300.0
"""Serve ends a directory that does not answer, and has another one up, within a minute or two, and that one reads the
headers of a large checkpoint in about as long."""
COMING_SECONDS = 120.0
"""For which a pod that has just begun is waited for; what is not ready then may never be, as a spare."""
_NUMBER = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class Pods:
    """Of one role, those that are not on their way out.

    Attributes:
        before: that have run since before the directory fell silent.
        answering: of these, that Kubernetes calls ready.
        ready: all that it does, which are those that a budget counts.
        there: all.
        coming: those that are not ready, and began less than ``COMING_SECONDS`` ago.
    """

    before: int
    answering: int
    ready: int
    there: int
    coming: int = 0

    def but(self, may_go: int) -> int:
        """How many must stay so that so many may go, also when those turn ready that are about to; that none may, when
        any do."""
        return max(self.ready + self.coming - may_go, 0) if may_go else self.there


@dataclass(frozen=True, slots=True)
class Told:
    """What is kept of the time when the directory told last which shards hold what.

    Attributes:
        since: that time, as far as is known; UTC.
        ran: pods for shards that ran then.
        stay: of these, how many had to stay; None where that is not known.
    """

    since: datetime
    ran: int = 0
    stay: int | None = None


@dataclass(frozen=True, slots=True)
class Untold:
    """What is known while nobody tells which shards hold what.

    Attributes:
        last: what was known when that was told last.
        seconds: since then.
        is_away: whether it may be that nobody tells processes that start what they need.
    """

    last: Told
    seconds: float
    is_away: bool
    attention: Pods
    shards: Pods

    @property
    def is_long(self) -> bool:
        """Whether a drain is not to wait for it any more."""
        return self.seconds >= UNTOLD_SECONDS


@dataclass(frozen=True, slots=True)
class Staying:
    """Pods of each role that must stay."""

    attention: int
    experts: int


def staying(
    moe: MoEDeployment,
    shards: int,
    drained: int = 0,
    whole: bool = True,
    serving: int | None = None,
    untold: Untold | None = None,
    together: bool = False,
    there: int = 0,
) -> Staying:
    """``shards``: that run; ``drained``: of these, that hold nothing; ``whole``: whether every copy is in place, and
    stays; ``there``: pods for shards that are not on their way out, spares among them;
    ``serving``: pods of attention whose replica is ready, None where that is not known; ``together``: whether all apis
    are in one pod, and another is waited for.

    A spare pod does not count where one may go: it is not ready before a shard runs on it, since Serve has no proxy
    there, and a number that asks for it would let no shard's pod go.
    """
    if untold is not None and untold.is_long:
        return _without_the_directory(moe, shards, untold)
    attention = moe.spec.attention.min_replicas
    is_short = attention > 1 and serving is not None and serving < attention
    may_go = max(moe.spec.experts.copies.min - 1, drained) if whole else 0
    stay = attention if is_short else max(attention - 1, 0)
    experts = max(shards - may_go, 0) if may_go else max(shards, there)
    return Staying(max(attention, serving or 0) if together else stay, experts)


def _without_the_directory(moe: MoEDeployment, shards: int, untold: Untold) -> Staying:
    wanted = max(moe.spec.attention.min_replicas - 1, 0)
    if _answers_nobody(moe, shards, untold):
        # Who comes is not waited for: where containers crash again and again some always do.
        attention, experts = (max(each.ready - 1, 0) for each in (untold.attention, untold.shards))
        return Staying(min(attention, wanted), experts)
    attention = untold.attention.but(1 if untold.attention.answering > 1 else 0)
    experts = untold.shards.but(1) if _spares_a_shard(moe, shards, untold) else max(shards, untold.shards.there)
    return Staying(attention if untold.is_away and wanted else wanted, experts)


def _spares_a_shard(moe: MoEDeployment, shards: int, untold: Untold) -> bool:
    """Whether each expert has a copy left when one more is lost. Any pod that is gone may have had a shard, and any
    that is there be a spare. Where none was to go when it was told last, copies were missing then."""
    if untold.last.stay is None or untold.last.stay >= shards:
        return False
    gone = max(shards + moe.kube_ray.expert_workers.spares - untold.shards.before, 0)
    return gone < moe.spec.experts.copies.min - 1


def _answers_nobody(moe: MoEDeployment, shards: int, untold: Untold) -> bool:
    """A shard that did not run when it was told last held nothing, and is missed by nobody."""
    lost = max(min(shards, untold.last.ran) - untold.shards.before, 0)
    return untold.is_away and (untold.attention.answering == 0 or lost >= moe.spec.experts.copies.min)


def told_of(moe: MoEDeployment, shards: int, untold: Untold | None) -> Finding | None:
    """What is to be said of evictions; None where a drain does not wait for long, or no shard is there yet."""
    if untold is None or not untold.is_long or not shards:
        return None
    why = f"the directory has not told since {untold.last.since.strftime(TIME_FORMAT)} which shards hold what"
    if _answers_nobody(moe, shards, untold):
        said = f"{why}, and by what is left nobody is answered: pods may be evicted, one at a time"
        return Finding(Reason.EVICTIONS_OPENED, said)
    if _spares_a_shard(moe, shards, untold):
        said = f"{why}: pods may be evicted again, one at a time, but the last of attention and last copies of experts"
        return Finding(Reason.EVICTIONS_OPENED, said)
    return Finding(
        Reason.LAST_COPIES_KEPT,
        f"{why}, and with any further shard the last copy of some expert may go: no pod of a shard may be evicted; "
        "Degraded says what the directory lacks, and kubectl drain --disable-eviction does without answers",
    )


def tells_what_is_held(report: DirectoryReport | None) -> bool:
    """A directory that was restarted does not before it knows its model."""
    return report is not None and report.model is not None


def noted(told: Told, cluster: str) -> str:
    """For an annotation of a budget, of the directory of a Ray cluster: ``TIME CLUSTER RAN [STAY]``."""
    numbers = (told.ran,) if told.stay is None else (told.ran, told.stay)
    return " ".join([told.since.strftime(TIME_FORMAT), cluster, *map(str, numbers)])


def told_last(budget: Mapping[str, Any] | None, cluster: str, now: datetime) -> Told | None:
    """As it was noted on a budget, so that an operator that is restarted goes on from there; None where nothing was.
    Whoever may write that may as well write how many are to stay."""
    annotations = (budget or {}).get("metadata", {}).get("annotations") or {}
    time, of, ran, stay = f"{annotations.get(ANNOTATION_UNTOLD_SINCE) or ''}   ".split(" ")[:4]
    since = time_told(time)
    if since is None or of != cluster:
        return None
    return Told(min(since, now), _number(ran) or 0, _number(stay))


def told_until(budget: Mapping[str, Any] | None, cluster: str, now: datetime, ran: int) -> Told:
    """What is to be noted when the directory of a Ray cluster falls silent. ``budget``: of pods for shards, as it was
    written while it told, unless it is of another cluster; ``ran``: such pods that run."""
    spec = (budget or {}).get("spec") or {}
    labels, stay = (spec.get("selector") or {}).get("matchLabels") or {}, spec.get("minAvailable")
    is_told = labels.get(LABEL_CLUSTER) == cluster and isinstance(stay, int)
    return Told(now, ran, stay if is_told else None)


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None
