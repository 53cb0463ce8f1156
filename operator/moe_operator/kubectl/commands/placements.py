"""``proposals``, ``diff`` and ``explain``: what ExpertPlacements are about."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from moe_operator.kubectl.commands.common import FIGURES, Answer, Request, known_figures, latest_figures
from moe_operator.kubectl.content import Content, Copy, Difference, difference
from moe_operator.kubectl.exits import NotThereError, RefusedError
from moe_operator.kubectl.terminal import age, size
from moe_operator.kubectl.view import Placement, plain

_LAYERS_SHOWN = 256
_COPIES_SHOWN = 12


def proposals(request: Request) -> Answer:
    """All ExpertPlacements of a deployment, or of the namespace, the latest last."""
    found = request.placements()
    entries = [("DEPLOYMENT", "REV", "FROM", "PHASE", "DECISION", "BY", "BALANCE", "FAN-OUT", "MOVES", "BYTES", "AGE")]
    for each in found:
        figures = dict(known_figures(each))
        told = figures.get("measured") or figures.get("predicted") or {}
        price = each.number("status", "price", "bytes")
        entries.append(
            (
                each.deployment,
                str(each.revision),
                str(each.base),
                each.phase or "-",
                each.decision,
                each.text("status", "origin") or "-",
                each.text("status", "balance") or told.get("balance", "-"),
                each.text("status", "fanOut") or told.get("fanOut", "-"),
                str(each.number("status", "price", "moves") or "-"),
                size(price) if price is not None else "-",
                age(each.created, request.now),
            )
        )
    nothing = request.terminal.wrapped(
        f"There is no ExpertPlacement{f' of {request.name}' if request.name else ''} in this namespace."
    )
    shown = [entry[1:] for entry in entries] if request.name else entries
    return Answer([_summary(each) for each in found], request.terminal.table(shown) if found else nothing)


def _summary(placement: Placement) -> dict[str, Any]:
    return {
        "name": placement.name,
        "namespace": placement.namespace,
        "deployment": placement.deployment,
        "revision": placement.revision,
        "baseRevision": placement.base,
        "phase": placement.phase,
        "decision": placement.decision,
        "origin": placement.text("status", "origin"),
        "approvedBy": placement.text("status", "approvedBy"),
        "why": placement.text("status", "why"),
        "balance": placement.text("status", "balance"),
        "fanOut": placement.text("status", "fanOut"),
        "price": plain(placement.at("status", "price")),
        "progress": plain(placement.at("status", "progress")),
        **{name: plain(placement.at("status", name)) for name in ("before", "predicted", "measured")},
        "conditions": [each._asdict() for each in placement.conditions()],
    }


def diff(request: Request) -> Answer:
    """What is loaded and freed to come from one revision to another."""
    before, after = (request.placement(request.revision(index)) for index in (0, 1))
    one, other = before.content, after.content
    found = difference(one, other)
    each = after.bytes_per_expert or before.bytes_per_expert
    data = {
        "from": before.revision,
        "to": after.revision,
        "loaded": [copy._asdict() for copy in found.loaded],
        "freed": [copy._asdict() for copy in found.freed],
        "bytes": each * len(found.loaded) if each else None,
    }
    return Answer(data, [*_heading(request, before, after, found, each), *_by_layer(request, one, other, found)])


def _heading(request: Request, before: Placement, after: Placement, found: Difference, each: int | None) -> list[str]:
    price = f" ({size(each * len(found.loaded))})" if each else ""
    return request.terminal.title(
        f"{request.name}, revision {before.revision} to {after.revision}: copies to load: {len(found.loaded)}{price}, "
        f"to free: {len(found.freed)}"
    )


def _by_layer(request: Request, one: Content, other: Content, found: Difference) -> list[str]:
    lines = []
    for title, before, after in (("shards", one.shards, other.shards), ("slots of a shard", one.slots, other.slots)):
        if before != after:
            lines += request.terminal.wrapped(f"{title}: {before} to {after}")
    changes = [(sign, _of_layers(copies)) for sign, copies in (("+", found.loaded), ("-", found.freed))]
    for layer in range(min(len(other.layers), _LAYERS_SHOWN)):
        parts = []
        for sign, copies in changes:
            ours = copies.get(layer, [])
            named = [f"{sign}{copy.expert}@{copy.shard}" for copy in ours[:_COPIES_SHOWN]]
            more = len(ours) - len(named)
            parts += [*named, *([f"and {more} more {sign}"] if more > 0 else [])]
        if parts:
            lines += request.terminal.wrapped(f"layer {layer}: {' '.join(parts)}")
    if lines:
        lines += request.terminal.wrapped("+EXPERT@SHARD is loaded, -EXPERT@SHARD is freed; -o json names all")
    return lines or request.terminal.wrapped("they hold the same copies")


def _of_layers(copies: Iterable[Copy]) -> dict[int, list[Copy]]:
    found = defaultdict(list)
    for copy in copies:
        found[copy.layer].append(copy)
    return found


def explain(request: Request) -> Answer:
    """Why a placement is there, what it was to bring and what it brought, and where it stands."""
    found = request.placement(request.revision())
    content = found.content
    against = _against_base(request, found, content)
    data = {**_summary(found), "moves": _counted(against)}
    lines = [*request.terminal.title(found.key), *_words(request, found)]
    lines += _figures(request, found)
    lines += _moves(request, found, content, against)
    for each in found.conditions():
        lines += request.terminal.wrapped(f"{each.type} is {each.status} ({each.reason}): {each.message}")
    return Answer(data, lines)


def _words(request: Request, found: Placement) -> list[str]:
    by = {"Operator": "the operator", "Person": "a person"}
    writer = by.get(found.text("status", "origin") or "", "somebody")
    text = f"Written by {writer} {age(found.created, request.now)} ago, from revision {found.base}."
    decision = {"Approved": "It was approved", "Rejected": "It was rejected"}.get(
        found.decision, "Nobody has decided on it"
    )
    approver = by.get(found.text("status", "approvedBy") or "") if found.decision == "Approved" else None
    text += f" {decision}{f' by {approver}' if approver else ''}."
    text += f" It is {found.phase}." if found.phase else " No operator has looked at it yet."
    why = found.text("status", "why") or _must(found)
    return [*request.terminal.wrapped(text), *(request.terminal.wrapped(f"Why: {why}.") if why else ())]


def _must(found: Placement) -> str | None:
    """Why the operator placed something that it did not propose."""
    if found.text("status", "origin") != "Operator" or found.at("status", "predicted") is not None:
        return None
    return (
        "the operator had to place: at first, for other shards, slots or copies, or for what ran before one that was "
        "taken back"
    )


def _figures(request: Request, found: Placement) -> list[str]:
    told = list(known_figures(found))
    lines = []
    if told:
        names = [name for name in FIGURES if any(name in of for _, of in told)]
        entries = [("", *(FIGURES[name] for name in names))]
        entries += [(title, *(of.get(name, "-") for name in names)) for title, of in told]
        lines += request.terminal.table(entries)
    if latest := ", ".join(latest_figures(found)):
        lines += request.terminal.wrapped(f"Counted last while it was in force: {latest}.")
    return lines


def _moves(
    request: Request, found: Placement, content: Content, against: tuple[Placement, Difference] | None
) -> list[str]:
    moves, price = found.number("status", "price", "moves"), found.number("status", "price", "bytes")
    shape = (
        f"{content.experts} experts x {len(content.layers)} layers on {content.shards} shards of {content.slots} slots"
    )
    text = f"It places {shape}."
    if moves is not None and price is not None:
        text += f" Its price is {moves} copies to load, {size(price)}"
        seconds = found.text("status", "price", "seconds")
        text += f", {seconds} s of the busiest link." if seconds else "."
    if against is not None:
        base, change = against
        layers = Counter(copy.layer for copy in change.loaded)
        shards = Counter(copy.shard for copy in change.loaded)
        text += (
            f" Against revision {base.revision}, copies to load: {len(change.loaded)}, to free: {len(change.freed)}; "
            f"layers with any to load: {len(layers)} of {len(content.layers)}"
        )
        text += f"; most on {_most(shards, 'shard')} and in {_most(layers, 'layer')}." if change.loaded else "."
    return request.terminal.wrapped(text)


def _most(counts: Counter[int], what: str) -> str:
    number, count = counts.most_common(1)[0]
    return f"{what} {number} ({count})"


def _against_base(request: Request, found: Placement, content: Content) -> tuple[Placement, Difference] | None:
    """The difference from the base, where that is still there and of the same model."""
    if not found.base:
        return None
    try:
        base = request.placement(found.base)
        return base, difference(base.content, content)
    except (NotThereError, RefusedError):
        return None


def _counted(against: tuple[Placement, Difference] | None) -> dict[str, int] | None:
    if against is None:
        return None
    base, change = against
    return {"against": base.revision, "loaded": len(change.loaded), "freed": len(change.freed)}
