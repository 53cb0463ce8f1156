"""Where a copy comes from: never over a link what could come from nearer. Pure.

Another shard of the same node comes first, then, where a node reads the checkpoint from itself, that; then shards of
other nodes, those asked for least first; and last a checkpoint that is read over the network. Two shards of a node that
both need an expert from another one do not fetch it twice: one does, and the others are given it in a later turn, when
it is near. A node's second read of a file comes from its own cache, so that the checkpoint needs no such rule.

Whatever changes, a transfer under way goes on, and is the one that the others wait for.

What is held back is always on its way to another shard of the node, which is live, has room for it, and tells of no
trouble; and it is ordered as soon as one of these ends. So nothing waits for ever, and what ``actions`` argues holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moe_serving.directory.actions import Copies
from moe_serving.experts.description import CHECKPOINT, ExpertKey, Loading, LoadOrder, Source
from moe_serving.wire.endpoint import Address

MOST_PEERS = 4
"""Near shards, and far shards, that an order names: a copy is there long before so many have failed."""

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
        loading: what it loads already.
    """

    node: str = ""
    address: Address | None = None
    near_checkpoint: bool = False
    troubled: bool = False
    loading: Loading = field(default_factory=Loading)


def hold_back(load: Loads, held: Copies, sites: Sequence[Site]) -> dict[int, tuple[ExpertKey, ...]]:
    """``load`` without what another shard of the same node fetches already from another one.

    Args:
        held: bool ``[layers, experts, shards]``, what live shards hold.
        sites: of all shards.
    """
    kept = dict(load)
    for node in {sites[shard].node for shard, keys in load.items() if keys}:
        together = sorted(shard for shard, keys in load.items() if keys and sites[shard].node == node)
        if len(together) > 1 and not sites[together[0]].near_checkpoint:
            far = _is_far(node, held, sites)
            fetchers = _fetchers({shard: [key for key in load[shard] if far[key]] for shard in together}, sites)
            for shard in together:
                kept[shard] = tuple(key for key in load[shard] if shard in fetchers.get(key, (shard,)))
    return kept


def _is_far(node: str, held: Copies, sites: Sequence[Site]) -> NDArray[np.bool_]:
    """bool ``[layers, experts]``: experts that shards hold, but none of ``node``."""
    return np.logical_and(held.any(axis=2), ~held[:, :, _on_node(node, sites)].any(axis=2))


def _on_node(node: str, sites: Sequence[Site]) -> NDArray[np.bool_]:
    """bool ``[shards]``: those of ``node``."""
    return np.array([site.node == node for site in sites], dtype=bool)


def _fetchers(wanted: Mapping[int, Sequence[ExpertKey]], sites: Sequence[Site]) -> dict[ExpertKey, set[int]]:
    """Which of the shards of one node fetch each expert that is wanted from afar: those to which it is under way, and
    one that tells of no trouble; where all tell of trouble, all of them."""
    by_key: dict[ExpertKey, list[int]] = {}
    for shard, keys in wanted.items():
        for key in keys:
            by_key.setdefault(key, []).append(shard)
    queued = {shard: set(sites[shard].loading.queue) for shard in wanted}
    fetchers = {}
    for key, shards in by_key.items():
        under_way = {shard for shard in shards if sites[shard].loading.on_its_way == key}
        able = [shard for shard in shards if not sites[shard].troubled]
        best = min(able, key=lambda shard: (shard not in under_way, key not in queued[shard], shard), default=None)
        fetchers[key] = set(shards) if best is None else under_way | {best}
    return fetchers


def are_outdated(
    shard: int, keys: Sequence[ExpertKey], told: Copies | None, held: Copies, sites: Sequence[Site]
) -> bool:
    """Whether ``shard`` was told sources of ``keys`` that have become wrong: something would come from afar that is
    near by now, or from a shard that does not hold it any more, or at a limited pace though nobody holds it any more.

    Args:
        told: what was ``held`` when its orders were given; None where that is not known.
    """
    if not keys:
        return False
    if told is None or told.shape != held.shape:
        return True
    places = tuple(np.array(keys, dtype=np.intp).T)
    was, now = told[places], held[places]
    near = _on_node(sites[shard].node, sites)
    known = was & now
    wrong = (was.any(axis=1) & ~now.any(axis=1)) | (now.any(axis=1) & ~known.any(axis=1))
    return bool((wrong | (now[:, near].any(axis=1) & ~known[:, near].any(axis=1))).any())


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
