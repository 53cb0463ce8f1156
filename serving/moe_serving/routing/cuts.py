"""Cuts the pairs of a layer into what each shard is asked: one call of compiled code in place of thirty of NumPy's.

After a wait for shards the caches hold their weights, and what is called first is slow: another operation costs tens of
microseconds then, however little it has to do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe_placement.dispatch import plain

Ints = NDArray[np.int64]
Shorts = NDArray[np.int32]
Floats = NDArray[np.float32]
Found = tuple[Ints, Ints, Ints, Ints, Ints, Shorts, Floats, Ints, Shorts]
CutKernel = Callable[[Ints, Ints, Floats], Found]


class Cut(NamedTuple):
    """The pairs of one shard, in the order of tokens and places.

    Attributes:
        position: of the shard.
        rows: ``[n]``, the tokens that have any, ascending.
        offsets: ``[n + 1]``, at which pair each of them begins; at last how many pairs there are.
        token, place: ``[P]``, of each pair.
        experts, weights: ``[P]``, of each pair.
    """

    position: int
    rows: Ints
    offsets: Shorts
    token: Ints
    place: Ints
    experts: Shorts
    weights: Floats


def cut(choice: Ints, experts: Ints, gates: Floats) -> list[Cut]:
    """One for each shard that has pairs, by ascending position.

    Args:
        choice: ``[T, K]``, the position of each pair's shard; -1 for those that nobody is asked for.
        experts, gates: ``[T, K]``.
    """
    arrays = plain(choice), plain(experts), np.require(gates, np.float32, ["C", "A", "W"])
    shards, pair_ends, row_ends, token, place, expert, weight, rows, offsets = _kernel()(*arrays)
    pairs, tokens = pair_ends.tolist(), row_ends.tolist()
    cuts = []
    for number, position in enumerate(shards.tolist()):
        mine, own = slice(pairs[number], pairs[number + 1]), slice(tokens[number], tokens[number + 1])
        edges = offsets[own.start + number : own.stop + number + 1]
        cuts.append(Cut(position, rows[own], edges, token[mine], place[mine], expert[mine], weight[mine]))
    return cuts


@cache
def _kernel() -> CutKernel:
    from moe_serving.routing import cut_kernel  # noqa: PLC0415 - Numba takes a second, and is loaded only to ask shards

    return cut_kernel.cut


def prepare() -> None:
    """Compile it, or load it from where it is kept: no step waits for that."""
    ids = np.zeros((1, 1), dtype=np.int64)
    cut(ids, ids, np.zeros((1, 1), dtype=np.float32))
