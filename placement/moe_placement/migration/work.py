"""What is left of a migration, and which transfers make up its next round.

Rounds are matchings between senders and receivers that cover the busiest ones first, as in Koenig's edge colouring of
bipartite graphs, so their number stays close to max(in, out). Used by ``planner`` only.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from moe_placement.migration.assignment import best_assignment
from moe_placement.migration.schedule import CHECKPOINT, Free, Transfer
from moe_placement.topology import Topology

Pair = tuple[int, int]
"""Layer and expert."""


class Work:
    """What is left to do; ``next_transfers``, ``carry_out`` and ``frees`` take it to the end."""

    def __init__(
        self, held: NDArray[np.bool_], target: NDArray[np.bool_], topology: Topology, buffers: NDArray[np.int64],
        density: NDArray[np.float64] | None,
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
        self._rank = np.zeros(len(held)) if density is None else -density
        for queue in self._incoming:
            queue.sort(key=self._turn)
        self._later: list[list[Pair]] = [[] for _ in self._incoming]
        self._surplus: dict[Pair, list[int]] = defaultdict(list)
        for layer, expert, shard in np.argwhere(held & ~target):
            self._surplus[int(layer), int(expert)].append(int(shard))
        self._due = list(self._surplus)
        self._leaving = np.asarray((held & ~target).sum(axis=(0, 1)), dtype=np.int64)

    @property
    def remaining(self) -> int:
        """Transfers not yet made."""
        return sum(map(len, self._incoming)) + sum(map(len, self._later))

    def put_off_beyond(self, limit: int) -> None:
        """Leave only ``limit`` copies to be made: one of each expert that nothing serves, then those with the most gain
        per byte, whole layers while they fit.
        """
        copies = [(pair, shard) for shard, queue in enumerate(self._incoming) for pair in queue]
        first = {pair: shard for pair, shard in reversed(copies) if not self._live[pair]}
        if not first and not self._rank.any():
            return

        def turn(copy: tuple[Pair, int]) -> tuple[bool, float, int]:
            pair, shard = copy
            return first.get(pair) != shard, float(self._rank[pair[0]]), pair[0]

        for pair, shard in sorted(copies, key=turn)[limit:]:
            self._incoming[shard].remove(pair)
            self._later[shard].append(pair)

    def take_up(self) -> bool:
        """Bring back what was put off, if anything was: the copies left wait for buffers that only others free."""
        found = any(self._later)
        self._incoming = [first + later for first, later in zip(self._incoming, self._later, strict=True)]
        self._later = [[] for _ in self._incoming]
        return found

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

    def carry_out(self, transfers: tuple[Transfer, ...]) -> None:
        """Make the copies live."""
        for each in transfers:
            pair = (each.layer, each.expert)
            self._incoming[each.target].remove(pair)
            self._live[pair].add(each.target)
            self._free[each.target] -= 1
            self._due.append(pair)

    def next_transfers(self, limit: int) -> tuple[Transfer, ...]:
        """At most ``limit``, one round: a matching of senders and receivers that covers the busiest of both."""
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
        transfers = []
        for row, target in best_assignment(value):
            key = (row if row < shards else CHECKPOINT, target)
            if key in options:
                layer, expert = options[key]
                transfers.append(Transfer(layer, expert, *key))
        chosen = {each.target for each in transfers}
        for (source, target), (layer, expert) in options.items():
            if source == CHECKPOINT and target not in chosen:
                transfers.append(Transfer(layer, expert, source, target))
                chosen.add(target)
        transfers.sort(key=lambda each: (*self._turn((each.layer, each.expert)), each.target, each.layer, each.expert))
        return tuple(sorted(transfers[:limit], key=lambda each: (each.target, each.layer, each.expert)))

    def _demand(self) -> NDArray[np.int64]:
        """Transfers left for each shard to give, if each is from the nearest, then least asked, that holds the copy."""
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
        orders: dict[tuple[int, int], tuple[bool, float, float]] = {}
        node = self._topology.node_of_shard
        for target in np.flatnonzero(open_in):
            waiting = self._incoming[target]
            unserved = [pair for pair in waiting if not self._live[pair]]
            for pair in unserved or waiting:
                live = self._live[pair]
                # A copy after which its expert can leave a shard without a free buffer keeps the rest going.
                tight = max((1.0 / (1.0 + self._free[g]) for g in self._surplus.get(pair, ())), default=0.0)
                turn = self._turn(pair)
                for source in live or (CHECKPOINT,):
                    near = source != CHECKPOINT and node[source] == node[target]
                    # By gain per byte, then by how good it is.
                    order = (*turn, -(tight + 0.25 * near))
                    key = (source, int(target))
                    if key not in options or order < orders[key]:
                        options[key], orders[key] = pair, order
        return options, {key: -order[-1] for key, order in orders.items()}

    def _turn(self, pair: Pair) -> tuple[bool, float]:
        """Copies go in ascending order of this: those that nothing serves, then those of the most gain per byte."""
        return bool(self._live[pair]), float(self._rank[pair[0]])
