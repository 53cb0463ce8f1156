"""``approve``, ``reject``, ``rollback``, ``pause``, ``resume`` and ``drain``: what is written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from moe_operator.api.annotations import drain_words, shard_indices
from moe_operator.api.names import (
    ANNOTATION_DRAIN,
    ANNOTATION_PAUSE,
    API_VERSION,
    PLACEMENT_KIND,
    PLACEMENT_PLURAL,
    PLURAL,
    placement_name,
    revision_of,
)
from moe_operator.api.phase import Phase
from moe_operator.api.reasons import PlacementConditionType
from moe_operator.kubectl.commands.common import Answer, Request
from moe_operator.kubectl.exits import (
    ChangedError,
    NotThereError,
    PluginError,
    RefusedError,
    TakenError,
    UnreachableError,
    UsageError,
)
from moe_operator.kubectl.view import Deployment, Placement

_TRIES = 3
_RAN = (Phase.VERIFYING, Phase.ACTIVE, Phase.SUPERSEDED)


def approve(request: Request) -> Answer:
    """Have a proposal migrated to."""
    return _decide(request, "Approved", "it is migrated to as soon as its condition Valid is True")


def reject(request: Request) -> Answer:
    """Decide against a proposal."""
    return _decide(request, "Rejected", "it is never migrated to")


def _decide(request: Request, decision: str, then: str) -> Answer:
    found = request.placement(request.revision())
    if found.decision == decision:
        return _decided(found, [f"{found.key} was {decision.lower()} already"])
    _check_undecided(found, decision)
    patch = {"metadata": {"uid": found.uid}, "spec": {"decision": decision}}
    after = Placement(request.cluster.patch(PLACEMENT_PLURAL, found.name, patch))
    return _decided(after, [f"{found.key} is {decision.lower()}: {then}"])


def _check_undecided(found: Placement, decision: str) -> None:
    if found.decision != "Pending":
        raise RefusedError(f"{found.key} was {found.decision.lower()}, which stays: write another, or roll back")
    if decision == "Approved" and found.phase is not None and found.phase is not Phase.PROPOSED:
        valid = found.condition(PlacementConditionType.VALID)
        why = valid.message if valid and valid.status != "True" else "its turn is over"
        raise RefusedError(f"{found.key} is {found.phase} and can be approved no more: {why}")


def _decided(found: Placement, lines: list[str]) -> Answer:
    data = {
        "name": found.name,
        "namespace": found.namespace,
        "revision": found.revision,
        "decision": found.decision,
        "phase": found.phase,
    }
    return Answer(data, lines)


def rollback(request: Request) -> Answer:
    """Write the content of an earlier revision as a new one, and approve that."""
    # Somebody may write one of the same revision between our look and our write.
    return _retried(lambda: _roll_back(request), TakenError)


def _roll_back(request: Request) -> Answer:
    moe, known = request.deployment(), request.placements()
    earlier = request.placement(request.revision()) if request.revisions else _before(moe, known)
    _check_fits(moe, earlier, known)
    # A name is taken even where the object cannot be read.
    taken = {each.revision for each in known} | {revision_of(each.name) for each in known}
    revision = next(number for number in itertools.count(moe.revision + 1) if number not in taken)
    content = {**earlier.raw["spec"]["content"], "revision": revision, "baseRevision": moe.revision}
    body = {
        "apiVersion": API_VERSION,
        "kind": PLACEMENT_KIND,
        "metadata": {"name": placement_name(moe.name, revision), "namespace": moe.namespace},
        "spec": {"deploymentRef": {"name": moe.name}, "decision": "Pending", "content": content},
    }
    written = Placement(request.cluster.create(body))
    patch = {"metadata": {"uid": written.uid}, "spec": {"decision": "Approved"}}
    try:
        after = Placement(request.cluster.patch(PLACEMENT_PLURAL, written.name, patch))
    except UnreachableError as error:
        # It may have been approved all the same, and be on its way: nothing is taken back.
        raise UnreachableError(
            f"{error}; whether {written.name}, which was written for it, is approved is not known: kubectl moe "
            f"explain {moe.name} {revision} tells, and kubectl moe approve or reject decides"
        ) from error
    except PluginError as error:
        raise type(error)(f"{error}; {_taken_back(request, written)}") from error
    line = (
        f"{written.key} has the content of revision {earlier.revision} and is approved: kubectl moe "
        f"status {moe.name} tells how far it is"
    )
    answer = _decided(after, [line])
    return Answer({**answer.data, "contentOf": earlier.revision}, answer.lines)


def _taken_back(request: Request, written: Placement) -> str:
    """Delete what was written, so that nothing half-done is left, if the user may."""
    try:
        request.cluster.delete(PLACEMENT_PLURAL, written.name)
    except PluginError:
        return f"{written.name}, which was written for it, stays Pending: have it approved, rejected or deleted"
    return "nothing has changed"


def _retried(action: Callable[[], Answer], met: type[PluginError]) -> Answer:
    for _ in range(_TRIES - 1):
        try:
            return action()
        except met:
            continue
    return action()


def _before(moe: Deployment, known: Sequence[Placement]) -> Placement:
    # One that was just replaced is told so a moment after what replaced it is told to be Active.
    ran = [each for each in known if each.phase in _RAN and each.revision < moe.revision]
    if not ran:
        raise NotThereError(
            f"{moe.key} has no superseded placement before revision {moe.revision}: name a revision; kubectl moe "
            f"proposals {moe.name} lists them"
        )
    return ran[-1]


def _check_fits(moe: Deployment, earlier: Placement, known: Sequence[Placement]) -> None:
    """Say beforehand what the operator would find wrong."""
    if not moe.revision:
        raise RefusedError(f"no placement of {moe.key} is in force: there is nothing to roll back from")
    content = earlier.content
    for field, says, is_ in (
        ("modelDigest", content.digest, moe.text("status", "model", "digest")),
        ("shards", content.shards, moe.number("status", "shards")),
        ("slotsPerShard", content.slots, moe.number("status", "slotsPerShard")),
    ):
        if is_ is not None and says != is_:
            raise RefusedError(
                f"revision {earlier.revision} does not fit {moe.key} as it is now: its {field} is {says}, not {is_}"
            )
    if earlier.revision == moe.revision:
        raise RefusedError(f"revision {moe.revision} of {moe.key} is what runs")
    running = next((each for each in known if each.revision == moe.revision), None)
    if running is not None and running.at("spec", "content", "layers") == earlier.at("spec", "content", "layers"):
        raise RefusedError(
            f"revision {moe.revision} of {moe.key}, which runs, has the content of revision {earlier.revision}"
        )


def pause(request: Request) -> Answer:
    """Have the operator propose and move nothing of its own accord."""
    moe = _annotate(request, {ANNOTATION_PAUSE: "true"})
    return _about(moe, f"{moe.key} is paused: kubectl moe resume {moe.name} goes on")


def resume(request: Request) -> Answer:
    """Take a pause back."""
    moe = _annotate(request, {ANNOTATION_PAUSE: None})
    return _about(moe, f"{moe.key} is not paused")


def drain(request: Request) -> Answer:
    """Have shards hold nothing any more; with ``stop``, those named, or all, may hold experts again."""
    # The annotation names what others drain, too: it is written on what was read.
    return _retried(lambda: _drain(request), ChangedError)


def _drain(request: Request) -> Answer:
    moe, named = request.deployment(), set(request.shards)
    # What is no index in the annotation is left out.
    drained = set(shard_indices(drain_words(moe.drained or "")).values())
    if request.stop:
        wanted = drained - named if named else set()
    else:
        wanted = drained | named
        _check_drainable(moe, wanted, request.shards)
    value = ",".join(map(str, sorted(wanted))) or None
    after = _annotate(request, {ANNOTATION_DRAIN: value}, moe)
    if value is None:
        return _about(after, f"{moe.key} drains no shard")
    return _about(after, f"{moe.key} drains shards {value}: kubectl moe status {moe.name} tells how far it is")


def _check_drainable(moe: Deployment, drained: set[int], named: Sequence[int]) -> None:
    running = moe.number("status", "shards")
    if not named:
        raise UsageError("name the shards to drain, such as: kubectl moe drain NAME 3")
    if running is None:
        return
    if max(named) >= running:
        there = f"shards 0 to {running - 1}" if running > 1 else ("shard 0 alone" if running else "no shards")
        raise NotThereError(f"{moe.key} has no shard {max(named)}: it runs {there}")
    if drained >= set(range(running)):
        raise RefusedError(f"nothing would be left of {moe.key}: it runs {running} shards, and all would be drained")


def _annotate(request: Request, annotations: dict[str, str | None], seen: Deployment | None = None) -> Deployment:
    """Write an annotation. ``seen``: the object that this was decided by; the write fails if somebody has written
    since."""
    metadata: dict[str, Any] = {"annotations": annotations}
    if seen is not None:
        metadata |= {"resourceVersion": seen.text("metadata", "resourceVersion") or ""}
    return Deployment(request.cluster.patch(PLURAL, request.name, {"metadata": metadata}))


def _about(moe: Deployment, line: str) -> Answer:
    data = {"name": moe.name, "namespace": moe.namespace, "paused": moe.paused, "draining": moe.drained}
    return Answer(data, [line])
