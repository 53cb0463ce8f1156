"""The rule of ``dispatch``, token by token; ``docs/placement.md`` has it as pseudo-code.

Where Numba is missing the same functions run on lists instead of arrays, which the interpreter reads several times
faster. So nothing of NumPy is called, and tables are flat: a row of one would be an object of its own.

A *place* is a shard on its node, or a node in the cluster: both are visited by the same two functions. Their arguments:
``holders`` int64 ``[(experts + 1) * width]``, the places that hold each expert, padded with their number n (``shards``
and ``nodes`` of ``dispatch.LayerCopies``); ``inside`` int64 ``[n + 1]``, what each place is inside of, and ``outer``
int64, the last token that visits each of those; ``visited`` int64, the last token that visits each place; ``load``
int64 and ``slowness`` float64 ``[n]``, the inverse of its speed. Pairs ``begin`` to ``end`` of ``ids`` and ``chosen``
are those of the token ``now``. No token ever visits the padding.

What a processor cannot foretell costs it more than arithmetic. So loops run to their end and values are selected, where
a branch would depend on where an expert's copies are.
"""

from __future__ import annotations

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
    load, node_load, listed, rank, places = state[LOAD], state[NODE_LOAD], state[LISTED], state[RANK], state[PLACES]
    at_shard, at_node, at_cluster = state[AT_SHARD], state[AT_NODE], state[AT_CLUSTER]
    for t in range(len(ids) // k):
        begin, end = t * k, t * k + k
        for c in range(begin, end):
            if ids[c] < -1 or ids[c] >= experts:
                return c
        load[n_shards] += 1
        now = load[n_shards]
        if now % WINDOW == 0:
            _halve(node_of_shard, load, node_load)
        at_cluster[0] = now
        if len(home) > 0:
            at_shard[home[t]] = now
            at_node[node_of_shard[home[t]]] = now
        if home_node >= 0:
            at_node[home_node] = now
        if n_nodes == 1:
            at_node[0] = now
        elif _visit_forced(ids, nodes, node_width, cluster_of_node, at_cluster, at_node, now, begin, end, chosen):
            _visit_most(
                ids, nodes, node_width, cluster_of_node, at_cluster, at_node, node_load, node_slowness, listed, rank,
                places, -now, now, begin, end, chosen,
            )  # fmt: skip
        is_open = _visit_forced(ids, shards, width, node_of_shard, at_node, at_shard, now, begin, end, chosen)
        for c in range(begin, end):
            if chosen[c] >= 0:
                load[chosen[c]] += 1
                node_load[node_of_shard[chosen[c]]] += 1
        if is_open:
            _visit_most(
                ids, shards, width, node_of_shard, at_node, at_shard, load, slowness, listed, rank, places, now, now,
                begin, end, chosen,
            )  # fmt: skip
            _send(
                ids, shards, width, node_of_shard, at_node, at_shard, load, node_load, slowness, allowance, now,
                begin, end, chosen,
            )  # fmt: skip
    return FINE


@inlined
def _halve(node_of_shard: Ints, load: Ints, node_load: Ints) -> None:
    """Loads are of the last tokens: what was sent long ago says little of what a shard has to do."""
    for m in range(node_of_shard[-1]):
        node_load[m] = 0
    for g in range(len(node_of_shard) - 1):
        load[g] //= 2
        node_load[node_of_shard[g]] += load[g]


@inlined
def _visit_forced(
    ids: Ints, holders: Ints, width: int, inside: Ints, outer: Ints, visited: Ints, now: int, begin: int, end: int,
    chosen: Ints,
) -> bool:  # fmt: skip
    """Choose and visit the only place inside what is visited that holds an expert; whether other pairs are ``OPEN``."""
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
    ids: Ints, holders: Ints, width: int, inside: Ints, outer: Ints, visited: Ints, load: Ints, slowness: Floats,
    listed: Ints, rank: Ints, places: Ints, mark: int, now: int, begin: int, end: int, chosen: Ints,
) -> None:  # fmt: skip
    """Greedy set cover: visit the place that holds most of what is open until all of it is ``COVERED``.

    Of places that hold as much the least loaded one, in whole pairs, and of these the first. ``listed``, ``rank`` and
    ``places`` are room to work in; nothing is ``listed`` with this ``mark`` yet.
    """
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
                    places[some] = place
                    some += 1
                rank[place] += _PAIR
    while left > 0:
        best = places[0]
        for i in range(1, some):
            best = places[i] if rank[places[i]] > rank[best] else best
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
    ids: Ints, shards: Ints, width: int, node_of_shard: Ints, at_node: Ints, at_shard: Ints, load: Ints,
    node_load: Ints, slowness: Floats, allowance: float, now: int, begin: int, end: int, chosen: Ints,
) -> None:  # fmt: skip
    """Send each open pair to the least loaded copy on the visited nodes; visited shards may be ``allowance`` fuller."""
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
