"""Counts of all attention replicas since the directory started."""

from __future__ import annotations

from moe_contract.report import Traffic
from moe_placement.encoding import encode_counts
from moe_serving.routing.counters import RoutingCounters


class TrafficTotals:
    """Sums up deltas; one that is delivered twice because its answer was lost counts once."""

    def __init__(self, layers: int, experts: int) -> None:
        self.totals = RoutingCounters.zero(layers, experts)
        self._last_sequence: dict[str, int] = {}

    def add(self, replica: str, sequence: int, delta: RoutingCounters) -> None:
        if self._last_sequence.get(replica) != sequence:
            self._last_sequence[replica] = sequence
            self.totals.add(delta)

    def report(self) -> Traffic:
        totals = self.totals
        return Traffic(
            tokens=totals.tokens,
            visits=totals.visits,
            failovers=totals.failovers,
            load=encode_counts(totals.load),
        )
