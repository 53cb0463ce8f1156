"""The rule of ``dispatch``, token by token; ``docs/placement.md`` has it as pseudo-code.

Where Numba is missing the same functions run on lists instead of arrays, which the interpreter reads several times
faster. So nothing of NumPy is called, and tables are flat: a row of one would be an object of its own. Fields of a
tuple are read once, in front of loops, since the interpreter looks each of them up.

Pairs ``begin`` to ``end`` of ``ids`` and ``chosen`` are those of the token ``now``.

What a processor cannot foretell costs it more than arithmetic. So loops run to their end and values are selected, where
a branch would depend on where an expert's copies are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import COMPILED, compiled, inlined
from moe_placement.dispatch import NOBODY, WINDOW

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LOAD, NODE_LOAD, AT_SHARD, AT_NODE, AT_CLUSTER, LISTED, RANK, PLACES = range(8)
"""Rows of ``state``: pairs lately sent to each shard and node; the last token that visits each shard, each node and the
cluster; room for ``_visit_most``. The last entry of ``LOAD`` is the number of tokens so far."""
STATE_ROWS = 8

IS_COMPILED = COMPILED

FINE = -1
OPEN, COVERED = -2, -3
"""In ``chosen``: no place that holds it is visited yet; one is, and the least loaded is still to be found."""
_ENDLESS = 1e300
_PAIR = 1 << 50
_LOAD = 1 << 20
_MOST_LOAD = float((1 << 29) - 1)
"""The rank of a place is one number: pairs that it holds (below 8,192), load, place (below 2 ** 20)."""


class Places(NamedTuple):
    """What a token may visit: the shards on their nodes, or the nodes in the cluster. No token visits the padding.

    Attributes:
        holders: int64 ``[(experts + 1) * width]``, the places that hold each expert, padded with their number n
            (``shards`` and ``nodes`` of ``dispatch.LayerCopies``).
        width: places listed for each expert.
        inside: int64 ``[n + 1]``, what each place is inside of.
        outer: int64, the last token that visits each of those.
        visited: int64 ``[n + 1]``, the last token that visits each place.
        load: int64, pairs lately sent to each place.
        slowness: float64 ``[n]``, the inverse of its speed.
    """

    holders: Ints
    width: int
    inside: Ints
    outer: Ints
    visited: Ints
    load: Ints
    slowness: Floats


class Ranking(NamedTuple):
    """Room for ``_visit_most``, int64 ``[n + 1]`` each: the mark under which a place is listed, what it is worth, and
    the places listed.
    """

    listed: Ints
    rank: Ints
    places: Ints


@compiled
def choose(
    ids: Ints, shape: tuple[int, int, int], shards: Ints, nodes: Ints, node_of_shard: Ints, cluster_of_node: Ints,
    slowness: Floats, node_slowness: Floats, home: Ints, home_node: int, allowance: float, state: Ints, chosen: Ints,
) -> int:  # fmt: skip
    """Write the shard of each pair of ``ids`` ``[tokens * k]`` to ``chosen``, and carry the load on in ``state``.

    Args:
        shape: k, and the widths of ``shards`` and ``nodes``.
        cluster_of_node: 0 for each node, and 1 for the padding.
        home: ``[tokens]``, the shard that each token starts on; empty for none.
        home_node: the node that all tokens start on; ``NOBODY`` for none.
        allowance: by how much load, divided by speed, a visited shard may be fuller than another.
        state: ``[STATE_ROWS, n_shards + 1]``; zeros before the first token.

    Returns:
        ``FINE``, or the first pair whose id is no expert's: all tokens before it are chosen for.
    """
    n_shards, n_nodes = len(slowness), len(node_slowness)
    k, width, node_width = shape
    experts = len(shards) // width - 1
    load, node_load = state[LOAD], state[NODE_LOAD]
    at_shard, at_node, at_cluster = state[AT_SHARD], state[AT_NODE], state[AT_CLUSTER]
    on_shards = Places(shards, width, node_of_shard, at_node, at_shard, load, slowness)
    on_nodes = Places(nodes, node_width, cluster_of_node, at_cluster, at_node, node_load, node_slowness)
    ranking = Ranking(state[LISTED], state[RANK], state[PLACES])
    for t in range(len(ids) // k):
        begin, end = t * k, t * k + k
        for c in range(begin, end):
            if ids[c] < -1 or ids[c] >= experts:
                return c
        load[n_shards] += 1
        now = load[n_shards]
        if now % WINDOW == 0:
            _halve(on_shards, on_nodes)
        at_cluster[0] = now
        if len(home) > 0:
            at_shard[home[t]] = now
            at_node[node_of_shard[home[t]]] = now
        if home_node >= 0:
            at_node[home_node] = now
        if n_nodes == 1:
            at_node[0] = now
        elif _visit_forced(ids, on_nodes, now, begin, end, chosen):
            _visit_most(ids, on_nodes, ranking, -now, now, begin, end, chosen)
        is_open = _visit_forced(ids, on_shards, now, begin, end, chosen)
        for c in range(begin, end):
            if chosen[c] >= 0:
                load[chosen[c]] += 1
                node_load[node_of_shard[chosen[c]]] += 1
        if is_open:
            _visit_most(ids, on_shards, ranking, now, now, begin, end, chosen)
            _send(ids, on_shards, on_nodes, allowance, now, begin, end, chosen)
    return FINE


@inlined
def _halve(on_shards: Places, on_nodes: Places) -> None:
    """Loads are of the last tokens: what was sent long ago says little of what a shard has to do."""
    for m in range(len(on_nodes.slowness)):
        on_nodes.load[m] = 0
    for g in range(len(on_shards.slowness)):
        on_shards.load[g] //= 2
        on_nodes.load[on_shards.inside[g]] += on_shards.load[g]


@inlined
def _visit_forced(ids: Ints, places: Places, now: int, begin: int, end: int, chosen: Ints) -> bool:
    """Choose and visit the only place inside what is visited that holds an expert; whether other pairs are ``OPEN``."""
    holders, width, inside, outer, visited = places.holders, places.width, places.inside, places.outer, places.visited
    is_open = False
    for c in range(begin, end):
        found, ways = NOBODY, 0
        for j in range(ids[c] * width, ids[c] * width + width):
            inner = outer[inside[holders[j]]] == now
            found = holders[j] if inner else found
            ways += inner
        if ways > 1:
            is_open = True
            chosen[c] = OPEN
        else:
            chosen[c] = found
            if ways == 1:
                visited[found] = now
    return is_open


@inlined
def _visit_most(
    ids: Ints, places: Places, ranking: Ranking, mark: int, now: int, begin: int, end: int, chosen: Ints
) -> None:
    """Greedy set cover: visit the place that holds most of what is open until all of it is ``COVERED``.

    Of places that hold as much the least loaded one, in whole pairs, and of these the first. Nothing is listed under
    this ``mark`` yet.
    """
    holders, width, inside, outer, visited = places.holders, places.width, places.inside, places.outer, places.visited
    load, slowness = places.load, places.slowness
    listed, rank, found = ranking.listed, ranking.rank, ranking.places
    left = some = 0
    for c in range(begin, end):
        if chosen[c] != OPEN:
            continue
        covered = False
        for j in range(ids[c] * width, ids[c] * width + width):
            covered |= visited[holders[j]] == now
        if covered:
            chosen[c] = COVERED
            continue
        left += 1
        for j in range(ids[c] * width, ids[c] * width + width):
            place = holders[j]
            if outer[inside[place]] == now:
                if listed[place] != mark:
                    listed[place] = mark
                    rank[place] = -int(min(load[place] * slowness[place], _MOST_LOAD)) * _LOAD - place
                    found[some] = place
                    some += 1
                rank[place] += _PAIR
    while left > 0:
        best = found[0]
        for i in range(1, some):
            best = found[i] if rank[found[i]] > rank[best] else best
        visited[best] = now
        for c in range(begin, end):
            holds = False
            for j in range(ids[c] * width, ids[c] * width + width):
                holds |= holders[j] == best
            if holds and chosen[c] == OPEN:
                chosen[c] = COVERED
                left -= 1
                for j in range(ids[c] * width, ids[c] * width + width):
                    rank[holders[j]] -= _PAIR


@inlined
def _send(
    ids: Ints, on_shards: Places, on_nodes: Places, allowance: float, now: int, begin: int, end: int, chosen: Ints
) -> None:
    """Send each open pair to the least loaded copy on the visited nodes; visited shards may be ``allowance`` fuller."""
    shards, width, node_of_shard, at_node = on_shards.holders, on_shards.width, on_shards.inside, on_shards.outer
    at_shard, load, node_load, slowness = on_shards.visited, on_shards.load, on_nodes.load, on_shards.slowness
    for c in range(begin, end):
        if chosen[c] != COVERED:
            continue
        best, least = -1, _ENDLESS
        for j in range(ids[c] * width, ids[c] * width + width):
            g = shards[j]
            if at_node[node_of_shard[g]] == now:
                has = load[g] * slowness[g] - (allowance if at_shard[g] == now else 0.0)
                best, least = (g, has) if has < least else (best, least)
        chosen[c] = best
        at_shard[best] = now
        load[best] += 1
        node_load[node_of_shard[best]] += 1
