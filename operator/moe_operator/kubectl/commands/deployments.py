"""``status``, ``placement`` and ``top``: how a deployment is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_operator.api.phase import Phase
from moe_operator.api.reasons import ConditionType
from moe_operator.kubectl import heatmap
from moe_operator.kubectl.commands.common import Answer, Request, latest_figures
from moe_operator.kubectl.exits import NotThereError
from moe_operator.kubectl.loads import Load, read_load
from moe_operator.kubectl.terminal import Terminal, age, share_cells
from moe_operator.kubectl.view import Deployment, Placement, moment, plain

_MOST_LISTED = 100


def status(request: Request) -> Answer:
    """How deployments are, which placement runs, and what waits for a decision."""
    deployments = request.deployments()
    placements = request.placements() if deployments else []
    data: list[dict[str, Any]] = []
    lines: list[str] = []
    for moe in deployments:
        ours = [each for each in placements if each.deployment == moe.name]
        data.append(_status(moe, ours))
        lines += [*([""] if lines else []), *_status_lines(request, moe, ours)]
    if not deployments:
        lines = request.terminal.wrapped("There is no MoEDeployment in this namespace; -n NAMESPACE names another.")
    return Answer(data[0] if request.name else data, lines)


def _status(moe: Deployment, placements: Sequence[Placement]) -> dict[str, Any]:
    return {
        "name": moe.name,
        "namespace": moe.namespace,
        "conditions": [each._asdict() for each in moe.conditions()],
        "url": moe.text("status", "url"),
        "shards": {
            "wanted": moe.number("spec", "experts", "shards"),
            "running": moe.number("status", "shards"),
            "ready": moe.number("status", "readyShards"),
        },
        "placement": plain(moe.at("status", "placement")),
        "rebalance": plain(moe.at("status", "rebalance")),
        "paused": moe.paused,
        "draining": moe.drained,
        "suspended": moe.at("spec", "suspend") is True,
        "pending": [each.revision for each in placements if _waits(each)],
        "migration": _migration(placements),
    }


def _status_lines(request: Request, moe: Deployment, placements: Sequence[Placement]) -> list[str]:
    terminal = request.terminal
    ready = moe.condition(ConditionType.READY)
    word = f"{ready.status} ({ready.reason})" if ready else "unknown: no operator has looked at it"
    entries = [
        ("Ready", word),
        ("URL", moe.text("status", "url") or "-"),
        ("Shards", _shards(moe)),
        ("Placement", _running(moe)),
    ]
    if moe.paused:
        entries.append(("Rebalance", "paused: kubectl moe resume goes on"))
    if moe.at("spec", "suspend") is True:
        entries.append(("Suspended", "the operator writes nothing"))
    if moe.drained is not None:
        entries.append(("Draining", f"shards {moe.drained}"))
    migration = _migration(placements)
    if migration:
        entries.append(("Migration", f"to revision {migration['revision']}: {migration['text']}"))
    entries += _decision(request, moe)
    pending = [each for each in placements if _waits(each)]
    if pending:
        entries.append(("Undecided", ", ".join(f"revision {each.revision}" for each in pending[:10])))
    told = terminal.titled(entries)
    told[0] = terminal.paint(told[0], "good" if ready and ready.status == "True" else "bad")
    lines = [*terminal.title(moe.key), *told]
    for each in moe.conditions():
        if each.message and (each.type, each.status) in _TELLING:
            lines += terminal.wrapped(f"{each.type}: {each.message}", "  ")
    return lines


_TELLING = frozenset(
    {
        (ConditionType.READY, "False"),
        (ConditionType.READY, "Unknown"),
        (ConditionType.DEGRADED, "True"),
        (ConditionType.STALLED, "True"),
        (ConditionType.DRAINED, "False"),
        (ConditionType.DRAINED, "True"),
        (ConditionType.REBALANCE_PAUSED, "True"),
    }
)
"""Conditions whose message is shown: it says what is wrong, or how far a drain is."""


def _shards(moe: Deployment) -> str:
    ready, running = moe.number("status", "readyShards"), moe.number("status", "shards")
    wanted = moe.number("spec", "experts", "shards")
    told = "-" if running is None else f"{ready or 0} of {running} ready"
    return told if wanted in (None, running) else f"{told}, {wanted} wanted"


def _running(moe: Deployment) -> str:
    if not moe.revision:
        return "none is in force"
    return ", ".join([f"revision {moe.revision}", *latest_figures(moe, "placement")])


def _migration(placements: Sequence[Placement]) -> dict[str, Any] | None:
    moving = next((each for each in placements if each.phase in (Phase.MIGRATING, Phase.VERIFYING)), None)
    if moving is None:
        return None
    copied, total = moving.number("status", "progress", "copied"), moving.number("status", "progress", "total")
    text = "it is being verified" if moving.phase is Phase.VERIFYING else "it begins"
    if moving.phase is Phase.MIGRATING and copied is not None and total:
        text = f"{copied} of {total} copies are in place"
    return {"revision": moving.revision, "phase": moving.phase, "copied": copied, "total": total, "text": text}


def _decision(request: Request, moe: Deployment) -> list[tuple[str, str]]:
    entries = []
    last = moe.at("status", "rebalance", "lastDecision")
    if isinstance(last, Mapping):
        parts = {name: moe.text("status", "rebalance", "lastDecision", name) or "" for name in ("result", "message")}
        when = moment(moe.text("status", "rebalance", "lastDecision", "time"))
        entries.append(("Last look", f"{age(when, request.now)} ago: {parts['result']}: {parts['message']}"))
    if coming := moe.text("status", "rebalance", "nextEvaluation"):
        entries.append(("Next look", coming))
    return entries


def _waits(placement: Placement) -> bool:
    return placement.decision == "Pending" and placement.phase in (None, Phase.PROPOSED)


def placement(request: Request) -> Answer:
    """Which expert has how many copies, and what each shard holds."""
    moe = request.deployment()
    revision = request.revision() if request.revisions else moe.revision
    if not revision:
        raise NotThereError(
            f"no placement of {moe.key} is in force; kubectl moe proposals {moe.name} lists all there are"
        )
    found = request.placement(revision)
    content, runs = found.content, revision == moe.revision
    load = read_load(moe.at("status", "load")) if runs else None
    copies = [content.copies(layer) for layer in range(len(content.layers))]
    data = {
        "name": found.name,
        "namespace": found.namespace,
        "revision": revision,
        "runs": runs,
        "shards": [
            {"shard": shard, "copies": content.held_by(shard), "share": _share(load, shard)}
            for shard in range(content.shards)
        ],
        "copies": copies,
    }
    title = f"{moe.key}, revision {revision}" + (", which runs" if runs else "")
    busiest = load.busiest if load else set()
    lines = [
        *request.terminal.title(title),
        *heatmap.layers_by_experts(content, busiest, request.terminal),
        "",
        *heatmap.shards(content, load.shares if load else (), request.terminal),
    ]
    return Answer(data, lines)


def _share(load: Load | None, shard: int) -> float | None:
    return load.shares[shard] if load and shard < len(load.shares) else None


def top(request: Request) -> Answer:
    """Shares of the shards and the busiest experts, as the status told them last."""
    moe = request.deployment()
    load = read_load(moe.at("status", "load"))
    data = {"name": moe.name, "namespace": moe.namespace, "load": _load_data(load)}
    if load is None:
        words = "no traffic has been counted yet; kubectl moe top --url asks the deployment itself"
        return Answer(data, request.terminal.wrapped(f"{moe.key}: {words}"))
    figures = _running(moe)
    told = f"counted {age(load.time, request.now)} ago; quiet deployments tell nothing new"
    return Answer(data, [*request.terminal.title(f"{moe.key}: {figures}; {told}"), *load_lines(load, request.terminal)])


def top_of(url: str, key_file: Path | None, terminal: Terminal) -> Answer:
    """Shares of the shards and the busiest experts, asked of the deployment itself."""
    from moe_operator.kubectl.asking import ask  # noqa: PLC0415 - loads HTTP, which no other command needs

    load = read_load(ask(url, key_file))
    data = {"url": url, "load": _load_data(load)}
    if load is None:
        return Answer(data, terminal.wrapped("no traffic has been counted yet"))
    return Answer(data, load_lines(load, terminal))


def _load_data(load: Load | None) -> dict[str, Any] | None:
    if load is None:
        return None
    bands = [{"layers": each.layers, "experts": [busy._asdict() for busy in each.experts]} for each in load.bands]
    return {"time": load.time.isoformat() if load.time else None, "shards": list(load.shares), "bands": bands}


def load_lines(load: Load, terminal: Terminal) -> list[str]:
    """Bars of the shards, and the busiest experts of each band of layers."""
    most = max(load.shares, default=0.0) or 1.0
    entries = [("SHARD", "SHARE", "TRAFFIC")]
    for shard, share in enumerate(load.shares[:_MOST_LISTED]):
        entries.append((str(shard), *share_cells(share, most)))
    lines = terminal.table(entries)
    if len(load.shares) > _MOST_LISTED:
        lines += terminal.wrapped(f"and {len(load.shares) - _MOST_LISTED} more shards: see -o json")
    if load.bands:
        lines += ["", *terminal.wrapped("Busiest experts: layer/expert, and its share of the layer's traffic")]
    for band in load.bands:
        named = "  ".join(f"{each.layer}/{each.expert} {each.share:.1%}" for each in band.experts)
        lines += terminal.wrapped(f"layers {band.layers}: {named}")
    return lines
