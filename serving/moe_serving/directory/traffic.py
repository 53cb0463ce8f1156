"""What all attention replicas counted: sums since the directory started, and figures of the tables lately in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moe_contract.report import MOST_EPOCHS, PARTS, EpochFigures, Traffic
from moe_contract.sizes import MOST_REPLICAS
from moe_placement.encoding import encode_counts
from moe_placement.simulation import balance
from moe_serving.directory.paces import Paces
from moe_serving.routing.recorder import WINDOW_SECONDS
from moe_serving.routing.steps import PAUSE_SECONDS
from moe_serving.routing.window import Window

HALVING_SECONDS = 300.0
"""After so long what figures and loads are made from weighs half as much, if other traffic has come since. So they
follow it, those of an idle deployment stay, and a report stays small, however old the directory."""
LOAD_DIGITS = 8
"""Binary digits of the loads that are told, which are off by 0.4% at most: with all digits they would be half of a
report."""


class TrafficCounts:
    """Takes the windows of attention replicas, each once however often it is delivered.

    Args:
        layers, experts: of the model; windows of another one are left out.
    """

    def __init__(self, layers: int, experts: int) -> None:
        self.load: NDArray[np.float64] = np.zeros((layers, experts))
        self.pairs_of_shard: Counter[int] = Counter()
        self._rows = self._visits = self._failovers = 0
        self._skipped = self._chosen = self._touched = 0
        self._halved: float | None = None
        self._epochs: dict[tuple[int, str], EpochCounts] = {}
        self._last_sequence: dict[str, int] = {}
        self._told: tuple[str, Traffic] | None = None

    def add(self, replica: str, sequence: int, windows: Sequence[Window], now: float) -> None:
        """Take a report with windows.

        Args:
            sequence: its number; that of the report before where it is delivered again.
            now: monotonic seconds.
        """
        if not windows or self._last_sequence.get(replica) == sequence:
            return
        # The ones that reported last stay, whatever number of replicas has come and gone.
        self._last_sequence.pop(replica, None)
        self._last_sequence[replica] = sequence
        while len(self._last_sequence) > MOST_REPLICAS:
            del self._last_sequence[next(iter(self._last_sequence))]
        self._told = None
        for window in windows:
            if window.load.shape == self.load.shape:
                self._add(window, now)

    def _add(self, window: Window, now: float) -> None:
        if self._halved is None or now - self._halved >= HALVING_SECONDS:
            self._halved = now
            self.load /= 2
        self.load += window.load
        self._rows += int(window.rows.sum())
        self._visits += int(window.visits.sum())
        self._failovers += window.failovers
        self._skipped += window.skipped
        self._chosen += window.chosen
        self._touched += window.touched
        self.pairs_of_shard.update(dict(enumerate(window.pairs.sum(axis=0).tolist())))
        version = (window.version.epoch, window.version.origin)
        if version not in self._epochs:
            self._epochs[version] = EpochCounts(window, now)
            for oldest in sorted(self._epochs)[:-MOST_EPOCHS]:
                del self._epochs[oldest]
        else:
            self._epochs[version].add(window, now)

    def report(self, origin: str) -> Traffic:
        """
        Args:
            origin: of our tables; those of an earlier directory have the same numbers.
        """
        # Reports are asked for more often than there is news.
        if self._told is None or self._told[0] != origin:
            self._told = origin, self._report(origin)
        return self._told[1]

    def _report(self, origin: str) -> Traffic:
        ours = [self._epochs[key] for key in sorted(self._epochs) if key[1] == origin]
        return Traffic(
            layer_rows=self._rows,
            visits=self._visits,
            failovers=self._failovers,
            load=encode_counts(_rounded(np.ceil(self.load))),
            shares=next((shares for each in reversed(ours) if (shares := each.shares())), ()),
            epochs=tuple(each.figures() for each in ours),
            pairs_skipped=self._skipped,
            experts_chosen=self._chosen,
            experts_touched=self._touched,
        )


class EpochCounts:
    """Counts of the rows routed by one table, and figures by the brain's definitions (``moe_placement.simulation``)."""

    def __init__(self, window: Window, now: float) -> None:
        self._of = window
        self._total_rows, self._total_pairs, self._failovers = np.zeros_like(window.rows), 0, 0
        self._rows, self._visits, self._remote = (np.zeros(len(window.rows)) for _ in range(3))
        self._pairs = np.zeros(window.pairs.shape)
        self._paces = Paces()
        self._seconds = max(WINDOW_SECONDS, window.steps.seconds)
        self._halved = self._last = now
        self.add(window, now)

    def add(self, window: Window, now: float) -> None:
        if now - self._halved >= HALVING_SECONDS:
            self._halved = now
            for counts in (self._rows, self._visits, self._remote, self._pairs):
                counts /= 2
            self._seconds /= 2
            self._paces.halve()
        # Replicas tell a window a second; a longer time without one was without traffic, but for what one that comes
        # late, the directory having been away, says that it covers.
        self._seconds += min(now - self._last, max(PAUSE_SECONDS, window.steps.seconds))
        self._last = now
        self._paces.add(window.steps)
        self._total_rows += window.rows
        self._total_pairs += int(window.pairs.sum())
        self._failovers += window.failovers
        self._rows += window.rows
        self._visits += window.visits.sum(axis=1)
        self._remote += window.remote
        self._pairs += window.pairs

    def shares(self) -> tuple[int, ...]:
        """Parts of 10,000 of all pairs, by shard; nothing where there are none."""
        pairs = self._pairs.sum(axis=0)
        return tuple(int(part) for part in (PARTS * pairs / pairs.sum()).round()) if pairs.any() else ()

    def figures(self) -> EpochFigures:
        """Means over the layers that had rows."""
        of, seen = self._of, self._rows > 0
        there = np.array([bool(node) for node in of.nodes], dtype=bool)
        names = sorted(set(of.nodes) - {""})
        on_node = np.array([[node == name for node in of.nodes] for name in names]).reshape(len(names), -1)
        nodes = on_node.sum(axis=1).astype(np.float64)
        pairs = self._pairs[seen]
        return EpochFigures(
            term=of.term,
            revision=of.revision,
            epoch=of.version.epoch,
            rows=int(self._total_rows.max(initial=0)),
            pairs=self._total_pairs,
            failovers=self._failovers,
            fan_out=_mean(self._visits[seen] / self._rows[seen]),
            node_fan_out=_mean(self._remote[seen] / self._rows[seen]),
            shard_balance=_mean([balance(layer, there.astype(np.float64)) for layer in pairs]),
            node_balance=_mean([balance(on_node @ layer, nodes) for layer in pairs]),
            nodes=len(names),
            rows_per_step=self._paces.rows_per_step,
            rows_per_second=float(self._rows.max(initial=0)) / self._seconds,
            paces=self._paces.told(),
            context=self._paces.context,
        )


def _rounded(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """To ``LOAD_DIGITS`` binary digits."""
    digits = np.frexp(counts)[1]
    steps = np.ldexp(1.0, np.maximum(digits - LOAD_DIGITS, 0))
    return np.asarray(np.round(counts / steps) * steps, dtype=np.int64)


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
