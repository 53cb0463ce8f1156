"""Where a copy comes from: never over a link what could come from nearer. Pure.

Another shard of the same node comes first, then, where a node reads the checkpoint from itself, that; then shards of
other nodes, those asked for least first; and last a checkpoint that is read over the network. Two shards of a node that
both need an expert from another one do not fetch it twice: one does, and the others are given it in a later turn, when
it is near. A node's second read of a file comes from its own cache, so that the checkpoint needs no such rule.

What is held back is always on its way to another shard of the node, which is live, has room for it, and tells of no
trouble; and it is ordered as soon as one of these ends. So nothing waits for ever, and ``planner``'s argument holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_serving.directory.planner import Copies
from moe_serving.experts.description import CHECKPOINT, ExpertKey, LoadOrder, Source
from moe_serving.wire.endpoint import Address

MOST_PEERS = 4
"""Near or far shards that an order names: a copy is there long before so many have failed."""

Loads = Mapping[int, tuple[ExpertKey, ...]]
"""By shard, what it should load, most urgent first."""


@dataclass(frozen=True, slots=True)
class Site:
    """A shard as a neighbour of others.

    Attributes:
        node: it runs on.
        address: where others fetch from it; None while they cannot.
        near_checkpoint: its node reads the checkpoint from itself.
        troubled: it tells of a problem.
    """

    node: str = ""
    address: Address | None = None
    near_checkpoint: bool = False
    troubled: bool = False


def hold_back(load: Loads, held: Copies, sites: Sequence[Site]) -> dict[int, tuple[ExpertKey, ...]]:
    """``load`` without what another shard of the same node fetches already from another one.

    Args:
        held: bool ``[layers, experts, shards]``, what live shards hold.
        sites: of all shards.
    """
    together = Counter(sites[shard].node for shard, keys in load.items() if keys)
    on_its_way: set[tuple[str, ExpertKey]] = set()
    kept = {}
    somewhere = held.any(axis=2)
    for shard, keys in sorted(load.items()):
        site = sites[shard]
        kept[shard] = keys
        if not keys or site.near_checkpoint or together[site.node] < 2:
            continue
        neighbours = np.array([other.node == site.node for other in sites])
        kept[shard] = tuple(key for key in keys if (site.node, key) not in on_its_way)
        if not site.troubled:
            far: NDArray[np.bool_] = np.logical_and(somewhere, ~held[:, :, neighbours].any(axis=2))
            on_its_way.update((site.node, key) for key in kept[shard] if far[key])
    return kept


def order_loads(load: Loads, held: Copies, sites: Sequence[Site]) -> dict[int, tuple[LoadOrder, ...]]:
    """Each of ``load`` with its sources, nearest first; the shards asked share the work."""
    asked: Counter[int] = Counter()
    return {shard: tuple(_order(key, shard, held, sites, asked) for key in keys) for shard, keys in load.items()}


def _order(key: ExpertKey, shard: int, held: Copies, sites: Sequence[Site], asked: Counter[int]) -> LoadOrder:
    holders = np.flatnonzero(held[key]).tolist()
    if not holders:
        return LoadOrder(*key, urgent=True)
    site = sites[shard]
    peers = sorted((peer for peer in holders if sites[peer].address is not None), key=lambda peer: (asked[peer], peer))
    near = [peer for peer in peers if sites[peer].node == site.node][:MOST_PEERS]
    far = [peer for peer in peers if sites[peer].node != site.node][:MOST_PEERS]
    ranked = [*near, CHECKPOINT, *far] if site.near_checkpoint else [*near, *far, CHECKPOINT]
    if (first := ranked[0]) is not CHECKPOINT:
        asked[first] += 1
    sources: tuple[Source, ...] = tuple(CHECKPOINT if peer is CHECKPOINT else sites[peer].address for peer in ranked)
    return LoadOrder(*key, sources)
