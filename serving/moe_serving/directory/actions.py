"""Make before break: what to publish, load and free next, so that any prefix of it is a complete placement.

Pure: a situation in, the next actions out; called again and again with what became of them. Moving from one placement
to another is nothing but this rule applied until nothing is left to do:

1. A shard loads copies of its target into whatever room it has. What is on its way goes on, whatever has changed
   meanwhile, unless an expert that nothing serves needs its room.
2. A copy beyond the target leaves the table as soon as enough others of its expert are live.
3. It is freed once no attention replica routes by a table that has it, which makes room for 1.

**It never gets stuck** while every shard of the target is live and has room for its target and one copy more. Suppose
copies are missing, and neither 1 nor 2 nor 3 can act. Then every shard with missing copies is full, so it holds more
surplus copies than it lacks: surplus > missing, summed over all shards. And no surplus copy may leave, so each expert
has no more live copies than its floor, which is at most the number of its target copies: its surplus copies are at most
its missing ones: surplus <= missing, summed over all experts. A contradiction. Each action lowers missing or surplus,
and none raises one, so the target is reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_serving.experts.description import ExpertKey, Loading

Copies = NDArray[np.bool_]
"""bool ``[layers, experts, shards]``."""


@dataclass(frozen=True, slots=True, eq=False)
class Situation:
    """What is and what is wanted; shards are numbered as in the target.

    Attributes:
        target: the copies wanted.
        held: the copies that live shards hold.
        silent: the copies that shards held which do not answer now but may still compute.
        published: the copies in the table in force.
        released: the copies that no attention replica can be routing to any more.
        live: bool ``[shards]``, those that answer.
        capacity: int ``[shards]``, copies that each may hold over all layers, spare buffers included.
        min_copies: so many copies of every expert stay live, as far as the target has so many.
        pairs: float ``[layers, experts]``, how many each expert lately had.
        loading: by shard what it loads already.
    """

    target: Copies
    held: Copies
    silent: Copies
    published: Copies
    released: Copies
    live: NDArray[np.bool_]
    capacity: NDArray[np.int64]
    min_copies: int
    pairs: NDArray[np.float64]
    loading: Mapping[int, Loading]


@dataclass(frozen=True, slots=True, eq=False)
class Actions:
    """What to do next. The table is published before anything is freed or loaded.

    Attributes:
        table: the copies that may be asked.
        load: for each live shard what it should load now, most urgent first.
        free: for each live shard what it should free now, before it loads.
        kept: the copies that live shards hold then.
    """

    table: Copies
    load: dict[int, tuple[ExpertKey, ...]]
    free: dict[int, tuple[ExpertKey, ...]]
    kept: Copies


def next_actions(now: Situation) -> Actions:
    """The next actions; none of them waits for another."""
    leaving = _leaving(now)
    free = leaving & ~now.published & now.released
    kept = now.held & ~free
    room = now.capacity - kept.sum(axis=(0, 1))
    live, copies = np.flatnonzero(now.live).tolist(), now.held.sum(axis=2)
    return Actions(
        table=(now.held & ~leaving) | now.silent,
        load={shard: _most_urgent(now, copies, shard, int(room[shard])) for shard in live},
        free={shard: _keys(free[:, :, shard]) for shard in live},
        kept=kept,
    )


def is_settled(now: Situation) -> bool:
    """Whether the target is in force and nothing else is held, as far as shards answer. A shard that shall hold nothing
    need not answer, once it has left the table."""
    needed = now.target.any(axis=(0, 1))
    # What a shard that fell silent holds too much comes back into the table until it is forgotten.
    answered = (now.live | ~needed).all() and not now.silent.any()
    return bool(answered and (now.held == now.target).all() and (now.published == now.target).all())


def _leaving(now: Situation) -> Copies:
    """Surplus copies that their experts can do without.

    At least ``floor`` live copies of each expert stay. Which of several may go: one that has left the table already, so
    that the table does not change to and fro; then one whose shard needs the room.
    """
    surplus = now.held & ~now.target
    floor = np.minimum(now.min_copies, now.target.sum(axis=2))
    allowed = np.maximum(0, now.held.sum(axis=2) - floor)
    missing = (now.target & ~now.held).sum(axis=(0, 1))
    cramped = now.held.sum(axis=(0, 1)) + missing > now.capacity
    preference = surplus * (1 + cramped + 2 * ~now.published)
    order = np.argsort(-preference, axis=2, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(order.shape[2]), order.shape), axis=2)
    return np.asarray(surplus & (rank < allowed[:, :, None]))


def _most_urgent(now: Situation, copies: NDArray[np.int64], shard: int, room: int) -> tuple[ExpertKey, ...]:
    """The copies that ``shard`` lacks, most urgent first, as many as fit. ``copies``: int ``[layers, experts]``, how
    many live ones there are.

    First those of experts that nothing serves; then what is on its way; then those of experts that are short of live
    copies, the shortest first; then by gain per byte. All experts of a model are of one size, and what a copy brings is
    traffic that may go another way: the expert with the most pairs gains most. What is queued already stays before what
    is not, so that counts which change all the time do not have the queue told anew each time.
    """
    wanted = np.argwhere(now.target[:, :, shard] & ~now.held[:, :, shard])
    layer, expert = wanted[:, 0], wanted[:, 1]
    served_by = copies[layer, expert]
    short = np.minimum(served_by, now.min_copies)
    place = _places(now.loading.get(shard, Loading()), now.pairs.shape)[layer, expert]
    turn = np.lexsort((-now.pairs[layer, expert], place, short, place > 0, served_by > 0))
    return tuple((int(layer), int(expert)) for layer, expert in wanted[turn][: max(0, room)])


def _places(loading: Loading, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """int ``[layers, experts]``: 0 for what is on its way, then the place of each expert in a shard's queue; of all
    others the place behind its end."""
    queue = loading.queue
    places = np.full(shape, len(queue) + 1, dtype=np.int64)
    places[tuple(np.array(queue, dtype=np.intp).reshape(-1, 2).T)] = np.arange(len(queue)) + (not loading.begun)
    return places


def _keys(copies: NDArray[np.bool_]) -> tuple[ExpertKey, ...]:
    return tuple((int(layer), int(expert)) for layer, expert in np.argwhere(copies))
