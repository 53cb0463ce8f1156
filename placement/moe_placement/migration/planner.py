"""``plan_migration``: which copies side by side, in which order, and what may be freed when.

Every shard has the buffers of its slots, over all layers, plus ``topology.spare_slots``; a copy needs a free buffer
when it starts. A copy may be freed when at least as many live ones remain as the expert has at the start or at the end,
whichever is fewer: so every prefix serves every expert, and a lost shard costs no expert that keeps two copies.

With one spare buffer per shard there is always a next copy: if every shard with work left were full, each would have
more copies to give than to get, but every copy given is one got by another. Rounds are matchings between senders and
receivers that cover the busiest ones first, as in Koenig's edge colouring of bipartite graphs, so their number stays
close to max(in, out).
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from moe_placement.errors import InfeasiblePlacementError, MismatchError
from moe_placement.migration.schedule import CHECKPOINT, Copy, Free, Migration, Round, round_seconds
from moe_placement.placement import Placement
from moe_placement.topology import Topology

Pair = tuple[int, int]


def plan_migration(
    current: Placement, target: Placement, topology: Topology, max_copies: int | None = None,
    bandwidth_share: float = 0.25, priority: NDArray[np.float64] | None = None,
) -> Migration:  # fmt: skip
    """Schedule the way from ``current`` to ``target``.

    Args:
        current, target: their shards are those of ``topology``, by index.
        topology: slots of the target; its spare slots are the buffers.
        max_copies: stop after so many copies (a byte budget divided by an expert's bytes).
        bandwidth_share: the part of each link that moves may use.
        priority: ``[layers]`` gain of each layer; layers with more gain go first where the order is free.

    Raises:
        MismatchError: placements of different models or numbers of shards.
        InfeasiblePlacementError: no spare buffer anywhere, and a cycle of moves needs one.
    """
    if (current.layers, current.experts) != (target.layers, target.experts) or topology.shards != target.shards:
        raise MismatchError("current, target and topology must be of one model and have the target's shards")
    held = np.zeros_like(target.held)
    shards = min(current.shards, target.shards)
    held[:, :, :shards] = current.held[:, :, :shards]
    buffers = np.maximum(topology.slots * target.layers, held.sum(axis=(0, 1))) + topology.spare_slots
    work = _Work(held, target.held, topology, buffers, priority)
    limit = work.remaining if max_copies is None else max_copies
    rounds: list[Round] = []
    opening = work.frees()
    if opening:
        rounds.append(Round((), opening))
    while work.remaining and limit > 0:
        copies = work.next_copies()[:limit]
        if not copies:
            raise InfeasiblePlacementError(
                f"{work.remaining} copies are left and no shard has a free buffer; spare_slots is "
                f"{topology.spare_slots}, 1 is always enough"
            )
        limit -= len(copies)
        work.carry_out(copies)
        rounds.append(Round(copies, work.frees()))
    return _summary(rounds, work.remaining == 0, topology, bandwidth_share)


def _summary(rounds: list[Round], complete: bool, topology: Topology, share: float) -> Migration:
    size = topology.costs.bytes_per_expert
    bytes_in, bytes_out = np.zeros(topology.shards), np.zeros(topology.shards)
    for step in rounds:
        for copy in step.copies:
            bytes_in[copy.target] += size
            if copy.source != CHECKPOINT:
                bytes_out[copy.source] += size
    seconds = sum(round_seconds(step.copies, topology, share) for step in rounds)
    return Migration(tuple(rounds), complete, seconds, bytes_in, bytes_out)


class _Work:
    """What is left to do; ``next_copies``, ``carry_out`` and ``frees`` take it to the end."""

    def __init__(
        self, held: NDArray[np.bool_], target: NDArray[np.bool_], topology: Topology, buffers: NDArray[np.int64],
        priority: NDArray[np.float64] | None,
    ) -> None:  # fmt: skip
        self._topology = topology
        self._live: dict[Pair, set[int]] = defaultdict(set)
        touched = np.argwhere((held != target).any(axis=2))
        for layer, expert in touched:
            self._live[int(layer), int(expert)] = set(np.flatnonzero(held[layer, expert]).tolist())
        self._least = {
            pair: min(int(held[pair].sum()), int(target[pair].sum())) for pair in self._live
        }  # fmt: skip
        self._free = buffers - held.sum(axis=(0, 1))
        self._incoming: list[list[Pair]] = [[] for _ in range(topology.shards)]
        for layer, expert, shard in np.argwhere(target & ~held):
            self._incoming[shard].append((int(layer), int(expert)))
        if priority is not None:
            for queue in self._incoming:
                queue.sort(key=lambda pair: -float(priority[pair[0]]))
        self._surplus: dict[Pair, list[int]] = defaultdict(list)
        for layer, expert, shard in np.argwhere(held & ~target):
            self._surplus[int(layer), int(expert)].append(int(shard))
        self._due = list(self._surplus)
        self._leaving = np.asarray((held & ~target).sum(axis=(0, 1)), dtype=np.int64)

    @property
    def remaining(self) -> int:
        """Copies not yet made."""
        return sum(map(len, self._incoming))

    def frees(self) -> tuple[Free, ...]:
        """Everything that may be freed now."""
        done = []
        for pair in self._due:
            surplus, live = self._surplus[pair], self._live[pair]
            while surplus and len(live) > max(self._least[pair], 1):
                # Where buffers are short a free helps most.
                shard = min(surplus, key=lambda g: self._free[g])
                surplus.remove(shard)
                live.discard(shard)
                self._free[shard] += 1
                self._leaving[shard] -= 1
                done.append(Free(*pair, shard))
        self._due = []
        return tuple(sorted(done, key=lambda free: (free.shard, free.layer, free.expert)))

    def carry_out(self, copies: tuple[Copy, ...]) -> None:
        """Make copies live."""
        for copy in copies:
            pair = (copy.layer, copy.expert)
            self._incoming[copy.target].remove(pair)
            self._live[pair].add(copy.target)
            self._free[copy.target] -= 1
            self._due.append(pair)

    def next_copies(self) -> tuple[Copy, ...]:
        """The copies of one round: a matching of senders and receivers that covers the busiest of both."""
        shards = self._topology.shards
        pending = np.array([len(queue) for queue in self._incoming])
        open_in = (pending > 0) & (self._free > 0)
        options, best = self._options(open_in)
        if not options:
            return ()
        demand = self._demand()
        busiest = max(int(pending.max()), int(demand.max()))
        value = np.zeros((shards + 1, shards))
        for source, target in options:
            urgent_in = 2.0 * (pending[target] == busiest) + pending[target] / busiest
            urgent_out = 0.0
            if source != CHECKPOINT:
                urgent_out = 2.0 * (demand[source] == busiest) + demand[source] / busiest
            value[source, target] = 4 + urgent_in + urgent_out + best[source, target]
        copies = []
        for source, target in zip(*linear_sum_assignment(value, maximize=True), strict=True):
            key = (int(source) if source < shards else CHECKPOINT, int(target))
            if key in options:
                layer, expert = options[key]
                copies.append(Copy(layer, expert, *key))
        chosen = {copy.target for copy in copies}
        for (source, target), (layer, expert) in options.items():
            if source == CHECKPOINT and target not in chosen:
                copies.append(Copy(layer, expert, source, target))
                chosen.add(target)
        return tuple(sorted(copies, key=lambda copy: (copy.target, copy.layer, copy.expert)))

    def _demand(self) -> NDArray[np.int64]:
        """Copies that each shard will have to send, if each comes from the nearest, then least asked, that holds it."""
        demand = np.zeros(self._topology.shards, dtype=np.int64)
        node = self._topology.node_of_shard
        for target, queue in enumerate(self._incoming):
            for pair in queue:
                live = self._live[pair]
                if live:
                    far = {g: (node[g] != node[target], int(demand[g])) for g in live}
                    demand[min(live, key=far.__getitem__)] += 1
        return demand

    def _options(self, open_in: NDArray[np.bool_]) -> tuple[dict[tuple[int, int], Pair], dict[tuple[int, int], float]]:
        """For each (source, target) the pair best copied between them, and how good that is (0 .. 2)."""
        options: dict[tuple[int, int], Pair] = {}
        best: dict[tuple[int, int], float] = {}
        node = self._topology.node_of_shard
        for target in np.flatnonzero(open_in):
            for pair in self._incoming[target]:
                live = self._live[pair]
                # A copy after which its expert can leave a shard without a free buffer keeps the rest going.
                tight = max((1.0 / (1.0 + self._free[g]) for g in self._surplus.get(pair, ())), default=0.0)
                for source in live or (CHECKPOINT,):
                    near = source != CHECKPOINT and node[source] == node[target]
                    score = tight + 0.25 * near
                    key = (source, int(target))
                    if key not in options or score > best[key]:
                        options[key], best[key] = pair, score
        return options, best
