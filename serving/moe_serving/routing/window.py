"""What was routed by one table in a while, counted: from the recorder of an attention replica to the directory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moe_serving.routing.steps import StepCounts
from moe_serving.routing.table import RoutingTable, TableVersion

Counts = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Window:
    """Counts of the rows that were routed by one table; a row is one token in one step, a pair a row and an expert.

    Attributes:
        version, term, revision: of that table.
        nodes: the node of each shard, by its index; empty where it was not in the table.
        load: ``[layers, experts]``, pairs of each expert.
        rows: ``[layers]``.
        pairs: ``[layers, shards]``, pairs that each shard was asked for, by its index.
        visits: ``[layers, shards]``, rows that each shard was asked for.
        remote: ``[layers]``, nodes visited by each row beside the one it started on, summed.
        failovers: pairs that were asked for again at another copy. ``pairs``, ``visits`` and ``remote`` have them too.
        steps: of the engine, those that ended under that table.
        skipped: pairs that gates chose, and adaptive routing left out; they are in none of the above.
        chosen, touched: distinct experts of a step and layer, summed over those with adaptive routing: that gates
            chose, and that were left of them.
    """

    version: TableVersion
    term: int
    revision: int
    nodes: tuple[str, ...]
    load: Counts
    rows: Counts
    pairs: Counts
    visits: Counts
    remote: Counts
    failovers: int = 0
    steps: StepCounts = field(default_factory=StepCounts)
    skipped: int = 0
    chosen: int = 0
    touched: int = 0

    @classmethod
    def of(cls, table: RoutingTable) -> Window:
        """Nothing counted yet."""
        layers, experts, _ = table.held.shape
        shards = 1 + max((shard.index for shard in table.shards), default=-1)
        nodes = [""] * shards
        for shard in table.shards:
            nodes[shard.index] = shard.address.node
        return cls(
            table.version, table.term, table.revision, tuple(nodes),
            load=np.zeros((layers, experts), dtype=np.int64), rows=np.zeros(layers, dtype=np.int64),
            pairs=np.zeros((layers, shards), dtype=np.int64), visits=np.zeros((layers, shards), dtype=np.int64),
            remote=np.zeros(layers, dtype=np.int64),
        )  # fmt: skip

    def add(self, other: Window) -> None:
        """Add what another window of the same table counted."""
        self.load += other.load
        self.rows += other.rows
        self.pairs += other.pairs
        self.visits += other.visits
        self.remote += other.remote
        self.failovers += other.failovers
        self.steps.add(other.steps)
        self.skipped += other.skipped
        self.chosen += other.chosen
        self.touched += other.touched


@dataclass(slots=True)
class Windows:
    """Counts not yet told, one window for each table."""

    _of: dict[TableVersion, Window] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, window: Window) -> None:
        known = self._of.get(window.version)
        if known is None:
            self._of[window.version] = window
        else:
            known.add(window)

    def take(self) -> tuple[Window, ...]:
        """All of them, by ascending epoch; nothing is left."""
        taken, self._of = self._of, {}
        return tuple(sorted(taken.values(), key=lambda window: window.version.epoch))
