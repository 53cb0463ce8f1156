"""What the routing client counts between two reports to the directory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class LayerTally:
    """What one layer of one step took; see ``RoutingCounters``."""

    visits: int = 0
    failovers: int = 0
    pairs: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True, eq=False)
class RoutingCounters:
    """Sums since the last report.

    Attributes:
        load: int64 ``[layers, experts]``, pairs of a token and an expert.
        tokens: token rows, counted once per MoE layer.
        visits: shards visited by them; ``visits / tokens`` is the fan-out.
        failovers: pairs that another copy answered than the one asked first.
        pairs: pairs sent to each shard, by its index.
    """

    load: NDArray[np.int64]
    tokens: int = 0
    visits: int = 0
    failovers: int = 0
    pairs: Counter[int] = field(default_factory=Counter)

    @classmethod
    def zero(cls, layers: int, experts: int) -> RoutingCounters:
        return cls(np.zeros((layers, experts), dtype=np.int64))

    def add_layer(self, layer: int, experts: NDArray[np.int64], tally: LayerTally) -> None:
        """Count one layer whose tokens chose ``experts`` ``[T, K]``."""
        self.load[layer] += np.bincount(experts.ravel(), minlength=self.load.shape[1])
        self.tokens += len(experts)
        self.visits += tally.visits
        self.failovers += tally.failovers
        self.pairs.update(tally.pairs)

    def add(self, other: RoutingCounters) -> None:
        """Add another report's sums to these."""
        self.load += other.load
        self.tokens += other.tokens
        self.visits += other.visits
        self.failovers += other.failovers
        self.pairs.update(other.pairs)
