"""Which copy of each expert a token goes to: the one rule of data plane, simulator, planner and comparisons.

Tokens are decided one after the other, each in four steps (``docs/placement.md`` has them as pseudo-code):

1. Nodes. Visit the token's own and those that alone hold one of its experts; then the node that holds most of what is
   left, of equals the one with less load, until all is covered.
2. Pairs of which the visited nodes hold one copy go there.
3. Shards. Beside those visited by then, likewise: the one that holds most of what is left.
4. Each open pair goes to the least loaded copy on the visited nodes, where a visited shard may be ``LENIENCE`` fuller
   than another: waiting for the fullest shard costs more than a visit.

Loads are counted in pairs and carried from call to call, so it makes no difference how tokens are divided into steps:
the simulator, which replays thousands at once, finds what the data plane does row by row. They are halved every
``WINDOW`` tokens: they cannot grow without bound, and follow a change of traffic.

The rule is in ``dispatch_kernel``; ids and choices are arrays on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import whole
from moe_placement.errors import MismatchError
from moe_placement.placement import Placement
from moe_placement.ranges import as_ranges
from moe_placement.topology import Topology

WINDOW = 4096
"""Tokens after which loads are halved."""

LENIENCE = 0.03
"""By what part of the mean load of ``WINDOW`` tokens a visited shard may be fuller than another holder and still be
preferred."""

NO_EXPERT = -1
"""An id that means no expert was chosen (fewer than top-k), or that its pair is not asked for."""

NOBODY = -1
"""In a choice: no shard, for ``NO_EXPERT`` and for an expert without a copy."""


@dataclass(frozen=True, slots=True)
class LayerCopies:
    """Where the copies of one layer's experts are, of which a token can be sent to any.

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

    @property
    def has_choice(self) -> bool:
        """Whether some expert has two copies."""
        return bool(self.shards.shape[1] > 1)


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
    return copies_on(held, topology.node_index, np.asarray(topology.shard_speed))


def copies_on(
    held: NDArray[np.bool_], node_index: NDArray[np.int64], speed: NDArray[np.float64] | None = None
) -> LayerCopies:
    """``LayerCopies`` from bool ``[experts, shards]``, and of each shard its node and its relative speed ``[shards]``.

    Nodes are numbered from 0 without gaps. None means that all are equally fast.
    """
    if speed is None:
        speed = np.ones(len(node_index))
    n_nodes = int(node_index.max(initial=-1)) + 1
    at_node = np.zeros((len(held), n_nodes), dtype=bool)
    expert, shard = np.nonzero(held)
    at_node[expert, node_index[shard]] = True
    return LayerCopies(
        shards=_padded_columns(held),
        nodes=_padded_columns(at_node),
        node_of_shard=np.append(node_index, n_nodes),
        share=speed / speed.sum(),
    )


def _padded_columns(member: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Column numbers of each row's True entries, padded with the number of columns; one row of padding is added."""
    rows, columns = member.shape
    row, column = np.nonzero(member)
    entries = np.bincount(row, minlength=rows)
    table = np.full((rows + 1, max(1, int(entries.max(initial=0)))), columns, dtype=np.int64)
    table[row, np.arange(len(row)) - np.repeat(np.cumsum(entries) - entries, entries)] = column
    return table


class CopyChooser:
    """Chooses the copies of one layer, call after call, and carries the load of its shards along.

    For one thread at a time. When the copies of a layer change, or the shards that may be asked, it gets a new chooser,
    and loads start anew.

    Args:
        copies: of the layer.
        home_node: the node that all tokens start on, and so visit anyway; ``NOBODY`` where it has no shards.
    """

    def __init__(self, copies: LayerCopies, home_node: int = NOBODY) -> None:
        self._copies = copies
        self._home_node = home_node
        first = copies.shards[:, 0]
        self._only = None if copies.has_choice else np.where(first < copies.n_shards, first, NOBODY)
        self._kernel: _Kernel | None = None

    def choose(self, ids: NDArray[np.integer], home: NDArray[np.integer] | None = None) -> NDArray[np.int64]:
        """The shard that serves each (token, expert) pair.

        Args:
            ids: ``[tokens, k]`` expert ids, ``NO_EXPERT`` where there is none.
            home: ``[tokens]`` the shard that each token starts on, and so visits anyway; None for none.

        Returns:
            int64 ``[tokens, k]``: a shard, or ``NOBODY``.

        Raises:
            MismatchError: an id that is no expert's.
        """
        if self._only is not None:
            chosen: NDArray[np.int64] = self._only[ids]
            return chosen
        if self._kernel is None:
            self._kernel = _Kernel(self._copies, self._home_node)
        return self._kernel.choose(plain(ids), _NO_HOME if home is None else plain(home))

    @property
    def load(self) -> NDArray[np.int64]:
        """int64 ``[n_shards]``: the pairs lately sent to each; zeros where there is nothing to choose."""
        return np.zeros(self._copies.n_shards, dtype=np.int64) if self._kernel is None else self._kernel.load


def choose_copies(
    ids: NDArray[np.integer], copies: LayerCopies, home: NDArray[np.integer] | None = None
) -> NDArray[np.int64]:
    """As ``CopyChooser.choose``, from no load."""
    return CopyChooser(copies).choose(ids, home)


def choose_from(
    ids: NDArray[np.integer], copies: LayerCopies, homes: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As processes on the nodes ``homes`` choose, which take tokens in turn and know of their own choices alone.

    Args:
        homes: the node of each, ``NOBODY`` for one without shards.

    Returns:
        int64 ``[tokens, k]`` shards as of ``choose_copies``, and int64 ``[tokens]``, the node that each starts on.
    """
    chosen = np.empty(ids.shape, dtype=np.int64)
    for first, home in enumerate(homes):
        mine = slice(first, None, len(homes))
        chosen[mine] = CopyChooser(copies, home).choose(ids[mine])
    return chosen, np.array(homes, dtype=np.int64)[np.arange(len(ids)) % len(homes)]


def prepare() -> None:
    """Compile the kernel, or load it from where it is kept, so that no later choice waits for that."""
    choose_copies(np.zeros((1, 1), dtype=np.int64), copies_on(np.ones((1, 2), dtype=bool), np.zeros(2, dtype=np.int64)))


class _Kernel:
    """What ``dispatch_kernel`` works on: arrays where it is compiled, lists where it is interpreted."""

    def __init__(self, copies: LayerCopies, home_node: int) -> None:
        from moe_placement import dispatch_kernel  # noqa: PLC0415 - Numba takes a second, and is loaded only to choose

        self._run: Callable[..., int] = dispatch_kernel.choose
        self._compiled = dispatch_kernel.IS_COMPILED
        self._n_shards = n_shards = copies.n_shards
        self._experts = len(copies.shards) - 1
        speed = copies.share * n_shards
        node_speed = np.bincount(copies.node_of_shard[:-1], weights=speed, minlength=copies.n_nodes)
        cluster_of_node = np.append(np.zeros(copies.n_nodes, dtype=np.int64), 1)
        tables = (
            copies.shards.ravel(), copies.nodes.ravel(), copies.node_of_shard, cluster_of_node, 1 / speed,
            1 / node_speed,
        )  # fmt: skip
        self._widths = copies.shards.shape[1], copies.nodes.shape[1]
        state = np.zeros((dispatch_kernel.STATE_ROWS, n_shards + 1), dtype=np.int64)
        self._tables: tuple[Any, ...] = tables if self._compiled else tuple(table.tolist() for table in tables)
        self._state: Any = state if self._compiled else state.tolist()
        self._home_node = home_node

    def choose(self, ids: NDArray[np.int64], home: NDArray[np.int64]) -> NDArray[np.int64]:
        """``home`` is empty for none."""
        flat, chosen, shape = ids.ravel(), np.empty(ids.size, dtype=np.int64), (ids.shape[1], *self._widths)
        allowance = LENIENCE * WINDOW * ids.shape[1] / self._n_shards
        if not ids.size:
            return chosen.reshape(ids.shape)
        if self._compiled:
            wrong = self._run(flat, shape, *self._tables, home, self._home_node, allowance, self._state, chosen)
        else:
            pairs: Any = chosen.tolist()
            wrong = self._run(
                flat.tolist(), shape, *self._tables, home.tolist(), self._home_node, allowance, self._state, pairs
            )  # fmt: skip
            chosen[:] = pairs
        if wrong >= 0:
            raise MismatchError(f"pair {wrong} asks for expert {flat[wrong]}; the layer has {self._experts}")
        return chosen.reshape(ids.shape)

    @property
    def load(self) -> NDArray[np.int64]:
        return np.array(self._state[0][: self._n_shards])


_NO_HOME = np.empty(0, dtype=np.int64)


def plain(array: NDArray[np.integer]) -> NDArray[np.int64]:
    """As the kernel was compiled for: another kind of array would compile it anew."""
    if array.dtype == np.int64 and array.flags.carray:
        return array  # type: ignore[return-value]  # just seen
    return np.array(array, dtype=np.int64, order="C")
