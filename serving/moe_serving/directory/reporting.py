"""Pieces of the report that the operator polls, made from the directory's state. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from moe_contract.model import ModelFacts
from moe_contract.report import AttentionReport, Fetched, Progress, ShardReport
from moe_placement import Placement
from moe_placement.placement import EMPTY
from moe_serving.directory.actions import Copies, Situation, is_settled
from moe_serving.directory.leases import Lease
from moe_serving.directory.messages import other_model
from moe_serving.directory.monitor import ShardMonitor
from moe_serving.fetching.fetch import fetched


def report_shard(monitor: ShardMonitor, facts: ModelFacts | None, wanted: int, pairs: int) -> ShardReport:
    """One shard as last seen; what a lost shard holds does not count.

    Args:
        wanted: copies that the target gives it.
        pairs: token-expert pairs that it was sent.
    """
    said, phase = monitor.description, monitor.phase
    if said is None:
        return ShardReport(index=monitor.index, phase=phase, wanted=wanted, pairs=pairs)
    problem = said.problem or (monitor.problem(facts) if facts else None)
    if problem is None and phase == "Ready" and said.capacity < wanted:
        problem = f"it may hold {said.capacity} experts, the placement gives it {wanted}; raise slotsPerShard"
    return ShardReport(
        index=monitor.index,
        phase=phase,
        node=said.node,
        incarnation=said.incarnation,
        pid=said.pid,
        held=int(monitor.held(facts).sum()) if facts and phase == "Ready" else 0,
        wanted=wanted,
        capacity=said.capacity,
        pairs=pairs,
        from_peers=said.counts.get("from_peers", 0),
        from_checkpoint=said.counts.get("from_checkpoint", 0),
        refused=said.counts.get("refused", 0),
        damaged=said.counts.get("damaged", 0),
        problem=problem,
        device=said.device,
        memory=said.memory,
        busy_us=said.counts.get("busy_us", 0),
        served_us=said.counts.get("served_us", 0),
        host=(said.address and said.address.host) or "",
    )


def report_fetched(path: str) -> Fetched | None:
    """How much of the model at ``path`` is on this node, while it is being fetched."""
    known = fetched(path)
    return Fetched(done=known[0], total=known[1]) if known else None


def sum_fetched(nodes: Iterable[tuple[str, tuple[int, int] | None]]) -> Fetched | None:
    """How much processes of some nodes wait for; those of one node share its files, so that one of them counts.

    Args:
        nodes: of each process, and bytes that are there and that are to be; None where it waits for none.
    """
    by_node: dict[str, tuple[int, int]] = {}
    for node, known in nodes:
        if known is not None:
            by_node[node] = max(known, by_node.get(node, known))
    if not by_node:
        return None
    return Fetched(done=sum(done for done, _ in by_node.values()), total=sum(total for _, total in by_node.values()))


def report_attention(leases: Mapping[str, Lease], facts: ModelFacts | None) -> tuple[AttentionReport, ...]:
    """The attention replicas that report, by name; one with another checkpoint than the directory's is not ready."""
    strange = {
        replica: other_model(lease.status.digest, facts.digest if facts else None) for replica, lease in leases.items()
    }
    return tuple(
        AttentionReport(
            replica=replica,
            ready=lease.status.ready and strange[replica] is None,
            problem=strange[replica] or lease.status.problem,
            epoch=max(0, lease.epoch),
            running=lease.status.running,
            waiting=lease.status.waiting,
            kv_tokens=lease.status.kv_tokens,
            pid=lease.status.pid,
            node=lease.status.node,
            host=lease.status.host,
            adaptive=lease.status.adaptive,
            wire=lease.status.wire,
        )
        for replica, lease in sorted(leases.items())
    )


def report_progress(now: Situation, in_use: bool) -> Progress:
    """How much of the target is in place.

    Args:
        in_use: every attention replica routes by the table in force.
    """
    return Progress(
        copied=int((now.target & now.held).sum()),
        total=int(now.target.sum()),
        settled=in_use and is_settled(now),
    )


def as_placement(copies: Copies) -> Placement | None:
    """Copies as a placement with as many slots per shard as needed; None while some expert has no copy."""
    if not copies.size or not copies.any(axis=2).all():
        return None
    layers, experts, shards = copies.shape
    widths = copies.sum(axis=1).max(axis=0)
    ends = np.cumsum(widths)
    slots = np.full((layers, int(ends[-1])), EMPTY, dtype=np.int32)
    for shard in range(shards):
        layer, expert = np.nonzero(copies[:, :, shard])
        nth = (copies[:, :, shard].cumsum(axis=1) - 1)[layer, expert]
        slots[layer, ends[shard] - widths[shard] + nth] = expert
    return Placement.of(slots, [int(width) for width in widths], experts)
