"""Which copy of each expert a token goes to: the one rule of simulator, planner and every contestant of a comparison.

Prefer a shard that the token visits anyway, then a node that it visits anyway (its own included), then the least loaded
copy. Nodes are chosen first: those that single copies force, then greedily the node that covers most of what is left.
On these nodes a shard visited anyway is left alone once it is ``LENIENCE`` fuller than another that holds the expert:
a visit inside a node is cheap, waiting for the fullest shard is not.
The data plane's own choice (``moe_serving.routing.choice``) has the same preferences, but no memory of loads between
steps yet; it cannot call this one as it is, since there shards come and go pair by pair.

Vectorised over tokens: about 0.2 us per (token, expert) pair in batches of thousands; with Numba installed
``dispatch_kernel`` gives the same answers in a fifth of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import whole
from moe_placement.errors import MismatchError
from moe_placement.placement import Placement
from moe_placement.ranges import as_ranges
from moe_placement.topology import Topology

_CHUNK = 1024
"""Tokens between two looks at the load: fewer balance better, more are faster."""

LENIENCE = 0.03
"""By what part of the mean load a shard visited anyway may be fuller than another holder and still be preferred."""

TOKEN_TURN, COPY_TURN = 0.6180339887, 0.7548776662
"""Tokens of one chunk decide on the same load: a golden-ratio sequence of about one column's load spreads them."""

NO_EXPERT = -1
"""An id that means no expert was chosen (fewer than top-k); it goes to no shard."""


@dataclass(frozen=True, slots=True)
class LayerCopies:
    """Where the copies of one layer's experts are.

    Attributes:
        shards: int64 ``[experts + 1, max_copies]``, shard of each copy, padded with ``n_shards``; the last row is all
            padding and serves ``NO_EXPERT``.
        nodes: int64 ``[experts + 1, max_nodes]``, distinct nodes of the copies, padded with ``n_nodes``.
        node_of_shard: int64 ``[n_shards + 1]``; the last entry is ``n_nodes``.
        share: float64 ``[n_shards]``, relative speed of each shard, summing to 1.
    """

    shards: NDArray[np.int64]
    nodes: NDArray[np.int64]
    node_of_shard: NDArray[np.int64]
    share: NDArray[np.float64]

    @property
    def n_shards(self) -> int:
        return len(self.share)

    @property
    def n_nodes(self) -> int:
        return int(self.node_of_shard[-1])


def layer_copies(placement: Placement, topology: Topology, layer: int) -> LayerCopies:
    """The copies of one layer that are not on dead shards, ready for ``choose_copies``.

    Raises:
        MismatchError: no such layer, a topology of another number of shards, or an expert on dead shards only.
    """
    whole(MismatchError, "layer", layer, most=placement.layers - 1)
    return copies_of(live_copies(placement, topology, layer), topology)


def live_copies(placement: Placement, topology: Topology, layer: int) -> NDArray[np.bool_]:
    """bool ``[experts, shards]``: the copies of one layer that are not on dead shards.

    Raises:
        MismatchError: a topology of another number of shards, or an expert on dead shards only.
    """
    check_same_shards(placement, topology)
    held = topology.readable(placement.held[layer])
    if topology.dead and not (served := held.any(axis=1)).all():
        raise MismatchError(
            f"layer {layer}: expert {int(served.argmin())} is on dead shards only ({int((~served).sum())} such experts "
            f"in the layer; dead are {as_ranges(topology.dead)}): nothing serves them until they are made elsewhere"
        )
    return held


def check_same_shards(placement: Placement, topology: Topology) -> None:
    """Raise ``MismatchError`` where there are not equally many."""
    if placement.shards != topology.shards:
        raise MismatchError(f"the placement has {placement.shards} shards, the topology {topology.shards}")


def copies_of(held: NDArray[np.bool_], topology: Topology) -> LayerCopies:
    """``LayerCopies`` from bool ``[experts, shards]``."""
    at_node = np.zeros((len(held), topology.nodes), dtype=bool)
    np.logical_or.at(at_node.T, topology.node_index, held.T)
    speed = np.asarray(topology.shard_speed)
    return LayerCopies(
        shards=_padded_columns(held),
        nodes=_padded_columns(at_node),
        node_of_shard=np.append(topology.node_index, topology.nodes),
        share=speed / speed.sum(),
    )


def _padded_columns(member: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Column numbers of each row's True entries, padded with the number of columns; one row of padding is added."""
    rows, columns = member.shape
    width = max(1, int(member.sum(axis=1).max(initial=0)))
    table = np.full((rows + 1, width), columns, dtype=np.int64)
    row, column = np.nonzero(member)
    position = np.cumsum(member, axis=1)[row, column] - 1
    table[row, position] = column
    return table


def choose_copies(
    ids: NDArray[np.integer], copies: LayerCopies, home: NDArray[np.integer] | None = None,
    load: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """The shard that serves each (token, expert) pair.

    Args:
        ids: ``[tokens, k]`` expert ids, ``NO_EXPERT`` where there is none.
        copies: of the layer.
        home: ``[tokens]`` the shard each token starts on; None where attention is not on the shards.
        load: ``[n_shards]`` pairs each shard has to do already; None for none.

    Returns:
        int64 ``[tokens, k]``; ``n_shards`` for ``NO_EXPERT``.
    """
    pairs: NDArray[np.int64] = np.ascontiguousarray(ids, dtype=np.int64)
    chosen: NDArray[np.int64] = copies.shards[pairs, 0]
    if copies.shards.shape[1] == 1:
        return chosen
    running = np.zeros(copies.n_shards + 1)
    if load is not None:
        running[:-1] = load
    kernel = _kernel()
    for begin in range(0, len(pairs), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        starts = None if home is None else home[part]
        if kernel is None:
            chosen[part] = _choose_chunk(pairs[part], copies, starts, running)
        else:
            kernel.choose_chunk(
                pairs[part], copies.shards, copies.nodes, copies.node_of_shard, copies.share * copies.n_shards,
                np.full(len(pairs[part]), -1) if starts is None else np.asarray(starts, dtype=np.int64), running,
                chosen[part],
            )  # fmt: skip
    return chosen


def _kernel() -> ModuleType | None:
    """``dispatch_kernel``, or None without Numba."""
    from moe_placement.compiled import COMPILED  # noqa: PLC0415 - Numba takes a second, and is loaded only to choose

    if not COMPILED:
        return None
    from moe_placement import dispatch_kernel  # noqa: PLC0415 - as above

    return dispatch_kernel


def _choose_chunk(
    ids: NDArray[np.int64], copies: LayerCopies, home: NDArray[np.integer] | None, running: NDArray[np.float64]
) -> NDArray[np.int64]:
    options = copies.shards[ids]
    at_node = _visited_nodes(ids, copies, home, running)
    rows = np.arange(len(ids))
    allowed = at_node[rows[:, None, None], copies.node_of_shard[options]]
    return _choose_shards(options, allowed, copies, home, running)


def _visited_nodes(
    ids: NDArray[np.int64], copies: LayerCopies, home: NDArray[np.integer] | None, running: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """bool ``[tokens, n_nodes + 1]``: nodes that cover each token's experts; the padding's column is False."""
    n_nodes = copies.n_nodes
    rows = np.arange(len(ids))
    visited = np.zeros((len(ids), n_nodes + 1), dtype=bool)
    if n_nodes == 1:
        visited[:, 0] = True
        return visited
    if home is not None:
        visited[rows, copies.node_of_shard[home]] = True
    nodes = copies.nodes[ids]
    forced = nodes[:, :, 1] == n_nodes if nodes.shape[2] > 1 else np.ones(ids.shape, dtype=bool)
    visited[rows[:, None], np.where(forced, nodes[:, :, 0], n_nodes)] = True
    visited[:, n_nodes] = False
    node_load = np.bincount(copies.node_of_shard, weights=running, minlength=n_nodes + 1)
    preference = 0.5 * (1 - node_load / (node_load.max() + 1))
    open_rows = rows
    while len(open_rows):
        near = nodes[open_rows]
        missing = ~_any_column(visited[open_rows[:, None, None], near]) & (near[:, :, 0] < n_nodes)
        still = missing.any(axis=1)
        open_rows, near, missing = open_rows[still], near[still], missing[still]
        if not len(open_rows):
            break
        cell = np.arange(len(open_rows))[:, None, None] * (n_nodes + 1) + near
        covers = np.bincount(cell[missing].ravel(), minlength=len(open_rows) * (n_nodes + 1))
        score = covers.reshape(len(open_rows), n_nodes + 1) + preference
        score[:, n_nodes] = -1
        visited[open_rows, score.argmax(axis=1)] = True
    return visited


def _any_column(member: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``member.any(axis=2)`` where there are few columns, which NumPy's own is slow at."""
    found = member[:, :, 0]
    for column in range(1, member.shape[2]):
        found = found | member[:, :, column]
    return found


def _choose_shards(
    options: NDArray[np.int64], allowed: NDArray[np.bool_], copies: LayerCopies,
    home: NDArray[np.integer] | None, running: NDArray[np.float64],
) -> NDArray[np.int64]:  # fmt: skip
    """Pick one allowed copy per pair, column by column; ``running`` load is updated in place."""
    tokens, k, width = options.shape
    rows = np.arange(tokens)
    pad = copies.n_shards
    visited = np.zeros((tokens, pad + 1), dtype=bool)
    if home is not None:
        visited[rows, home] = True
    ways, target = np.zeros((tokens, k), dtype=np.int16), np.zeros((tokens, k), dtype=np.int64)
    for column in range(width):  # few: faster than sums over the last axis
        ways += allowed[:, :, column]
        np.copyto(target, options[:, :, column], where=allowed[:, :, column])
    forced = ways == 1
    forced_shard = np.where(forced, target, pad)
    visited[rows[:, None], forced_shard] = True
    visited[:, pad] = False
    running += np.bincount(forced_shard.ravel(), minlength=pad + 1)
    chosen = forced_shard
    turn = (rows[:, None] * TOKEN_TURN + np.arange(width) * COPY_TURN) % 1.0
    speed = np.append(copies.share, 1.0) * copies.n_shards
    for column in range(k):
        free = np.flatnonzero(~forced[:, column] & (options[:, column, 0] < pad))
        if not len(free):
            continue
        option, may = options[free, column], allowed[free, column]
        again = may & visited[free[:, None], option]
        blur = len(free) / pad + 1
        cost = running[option] / speed[option] + turn[free] * blur - again * (LENIENCE * running[:pad].mean() + blur)
        pick = option[np.arange(len(free)), np.where(may, cost, np.inf).argmin(axis=1)]
        chosen[free, column] = pick
        visited[free, pick] = True
        running += np.bincount(pick, minlength=pad + 1)
    return chosen
