"""RoutingStatistics: one model's routing, gathered batch by batch. Filled by the data plane or from a trace."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_placement.checks import MOST_EXPERTS, MOST_SEED, experts_once, instance, integers, real, whole
from moe_placement.checks import gates as checked_gates
from moe_placement.checks import ids as checked_ids
from moe_placement.checks import loads as checked_loads
from moe_placement.errors import InvalidStatisticsError, MismatchError
from moe_placement.statistics.reservoir import Reservoir
from moe_placement.statistics.windows import aligned, first_length, paired, take_out

NO_EXPERT = -1
DEFAULT_CAPACITY = 4096
DEFAULT_WINDOWS = 32
DEFAULT_WINDOW_TOKENS = 16384
"""As many as ``Costs.tokens_per_step``: what surges within one step cannot be helped by a placement of experts."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What two statistics must share to be of one model."""

    layers: int
    experts: int
    top_k: int


class RoutingStatistics:
    """Counts over tokens, a sample of whole expert sets and the history of loads.

    Windows close by themselves: the first ones are short, so that little traffic already tells how loads surge; when
    there are ``max_windows``, neighbours are joined and windows are twice as long from then on, up to
    ``window_tokens``, after which the oldest leave. Where windows should be of equal time instead (those of several
    replicas that are to be merged), ``window_tokens=None`` leaves it to the caller's clock and ``close_window``.

    Attributes:
        shape: layers, experts per layer, experts per token.
        tokens: tokens counted (a float: decayed ones count less).
        load: float64 ``[layers, experts]``, tokens that chose each expert.
        pairs: float32 ``[layers, experts, experts]``, tokens that chose both; the diagonal is the load.
        transitions: float32 ``[layers - 1, experts, experts]``, (expert of a layer, expert of the next) per token.
        sample: whole expert sets of sampled tokens.
        windows: float64 ``[windows, layers, experts]``, loads of the closed windows, oldest first.
    """

    def __init__(
        self, layers: int, experts: int, top_k: int, capacity: int = DEFAULT_CAPACITY,
        max_windows: int = DEFAULT_WINDOWS, seed: int | None = None,
        window_tokens: int | None = DEFAULT_WINDOW_TOKENS,
    ) -> None:  # fmt: skip
        """``seed`` is the sample's; without one it comes from the system, so that no two replicas draw alike.
        ``window_tokens`` are those of the longest window; None for windows that only ``close_window`` closes.

        Raises:
            InvalidStatisticsError: a size or a seed that is no whole number in its range.
        """
        error = InvalidStatisticsError
        layers = whole(error, "layers", layers, 1)
        experts = whole(error, "experts", experts, 1, MOST_EXPERTS)
        top_k = whole(error, "top_k", top_k, 1, experts)
        capacity = whole(error, "capacity", capacity)
        if seed is not None:
            seed = whole(error, "seed", seed, most=MOST_SEED)
        self.shape = Shape(layers, experts, top_k)
        self.max_windows = whole(error, "max_windows", max_windows, 1)
        if window_tokens is not None:
            window_tokens = whole(error, "window_tokens", window_tokens, 1)
        self.window_tokens = window_tokens
        self._length: float = math.inf if window_tokens is None else first_length(window_tokens)
        self.tokens = 0.0
        self.load = np.zeros((layers, experts))
        self.pairs = np.zeros((layers, experts, experts), dtype=np.float32)
        self.transitions = np.zeros((max(layers - 1, 0), experts, experts), dtype=np.float32)
        self.sample = Reservoir(capacity, layers, top_k, seed)
        self.windows = np.zeros((0, layers, experts))
        self._open = np.zeros((layers, experts))

    def add(self, ids: ArrayLike, gates: ArrayLike | None = None) -> None:
        """Count a batch in O(tokens x layers x k^2); windows close where they are full, also within the batch.

        Args:
            ids: integers ``[tokens, layers, k]``; ``NO_EXPERT`` where fewer than k were chosen.
            gates: floats of the same shape, the gate weights, where known.

        Raises:
            InvalidStatisticsError: another shape, an id out of range, an expert twice in one set, gates that are not
                finite.
        """
        batch = self._checked(ids)
        weights = None if gates is None else checked_gates(InvalidStatisticsError, gates, batch.shape)
        experts = self.shape.experts
        self._add_loads(batch)
        for layer in range(self.shape.layers):
            now = batch[:, layer]
            self.pairs[layer] += _co_occurrence(now, now, experts)
            if layer:
                self.transitions[layer - 1] += _co_occurrence(batch[:, layer - 1], now, experts)
        self.tokens += len(batch)
        self.sample.add(batch.astype(np.int16), weights)

    def _checked(self, ids: ArrayLike) -> NDArray[np.int64]:
        batch = checked_ids(InvalidStatisticsError, "ids", ids, "[tokens, layers, k]", self.shape.experts)
        expected = (self.shape.layers, self.shape.top_k)
        if batch.shape[1:] != expected:
            raise InvalidStatisticsError(f"ids must be [tokens, {expected[0]}, {expected[1]}], got {batch.shape}")
        experts_once(InvalidStatisticsError, batch)
        return batch

    def close_window(self) -> None:
        """End a window now: its loads join ``windows``, of which the newest ``max_windows`` stay."""
        self.windows = np.concatenate([self.windows, self._open[None]])[-self.max_windows :]
        self._open = np.zeros_like(self._open)

    def _add_loads(self, batch: NDArray[np.int64]) -> None:
        """Count loads window by window."""
        layers, experts = self.load.shape
        begin = 0
        while begin < len(batch):
            opened = float(self._open.sum(axis=1).max()) / self.shape.top_k
            end = int(min(len(batch), begin + max(1.0, float(np.ceil(self._length - opened)))))
            part = batch[begin:end]
            cell = (np.arange(layers)[:, None] * experts + part)[part >= 0]
            loads = np.bincount(cell, minlength=layers * experts).reshape(layers, experts)
            self.load += loads
            self._open += loads
            if float(self._open.sum(axis=1).max()) >= self._length * self.shape.top_k:
                self._close_full_window()
            begin = end

    def _close_full_window(self) -> None:
        """End a window; where there is no room for it, windows get longer, or the oldest leaves."""
        longest = math.inf if self.window_tokens is None else self.window_tokens
        if len(self.windows) >= self.max_windows and 2 * self._length <= longest:
            self.windows = np.concatenate([self.windows, self._open[None]])
            self._open = np.zeros_like(self._open)
            self._lengthen()
        else:
            self.close_window()

    def _lengthen(self) -> None:
        self.windows, rest = paired(self.windows)
        self._open = self._open + rest
        self._length *= 2

    @property
    def windows_with_traffic(self) -> int:
        """Closed windows in which all layers had traffic: with fewer than two nothing is known of surges."""
        return int((self.windows.sum(axis=2) > 0).all(axis=1).sum())

    def covariance(self, layer: int) -> NDArray[np.float64]:
        """float64 ``[experts, experts]``: covariance between windows of the experts' parts of their layer's load; zeros
        for fewer than two windows with traffic.

        Raises:
            InvalidStatisticsError: no such layer.
        """
        part, _ = self._layer_windows(layer)
        if len(part) < 2:
            return np.zeros((self.shape.experts, self.shape.experts))
        return np.atleast_2d(np.cov(part, rowvar=False)).astype(np.float64)

    def steadied_covariance(self, layer: int) -> NDArray[np.float64] | None:
        """``covariance`` with what sampling alone explains taken out; None for fewer than two windows with traffic.

        A count of n has a variance of about n by chance; an expert's departures from its mean shrink by the root of
        the part of their variance that is more than that.

        Raises:
            InvalidStatisticsError: no such layer.
        """
        parts, counts = self._layer_windows(layer)
        if len(parts) < 2:
            return None
        mean = parts.mean(axis=0)
        by_chance = mean * (1.0 / counts).mean()
        kept = np.clip(1 - by_chance / np.maximum(parts.var(axis=0, ddof=1), 1e-300), 0, 1)
        departures = np.sqrt(kept) * (parts - mean)
        # Not by matrix product: BLAS would start threads of its own under the solver's, and they spin for a while.
        covariance: NDArray[np.float64] = np.einsum("we,wf->ef", departures, departures) / (len(parts) - 1)
        return covariance

    def _layer_windows(self, layer: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the windows in which all layers had traffic: one layer's loads ``[windows, experts]``, each window summing
        to 1, and what they sum to by themselves ``[windows]``."""
        whole(InvalidStatisticsError, "layer", layer, most=self.shape.layers - 1)
        busy = (self.windows.sum(axis=2) > 0).all(axis=1)
        loads = self.windows[busy, layer]
        counts = loads.sum(axis=1)
        return loads / counts[:, None], counts

    def decay(self, factor: float) -> None:
        """Let all that was counted so far weigh ``factor`` (0 < factor <= 1) as much as what comes.

        Raises:
            InvalidStatisticsError: another factor.
        """
        real(InvalidStatisticsError, "decay factor", factor, above=True, most=1)
        self.tokens *= factor
        self.load *= factor
        self.pairs *= np.float32(factor)
        self.transitions *= np.float32(factor)
        self.sample.decay(factor)

    def merge(self, other: RoutingStatistics) -> None:
        """Add what ``other`` counted (another replica's statistics of the same time): windows are laid on each other,
        the newest on the newest, the shorter ones joined first until both are equally long.

        Raises:
            MismatchError: statistics of another model.
        """
        self._check_same_model(other)
        if self.window_tokens is not None and other.window_tokens is not None:
            self.window_tokens = max(self.window_tokens, other.window_tokens)
            while self._length < other._length:
                self._lengthen()
            if other._length < self._length:
                other = other.copy()
            while other._length < self._length:
                other._lengthen()
        self.tokens += other.tokens
        self.load += other.load
        self.pairs += other.pairs
        self.transitions += other.transitions
        self._open += other._open
        self.sample.merge(other.sample)
        count = max(len(self.windows), len(other.windows))
        self.windows = aligned(self.windows, count) + aligned(other.windows, count)

    def subtract(self, other: RoutingStatistics) -> None:
        """Take an earlier window out again, from counts and history; samples that both hold leave.

        Raises:
            InvalidStatisticsError: ``other`` counted something that this does not contain.
            MismatchError: statistics of another model.
        """
        self._check_same_model(other)
        missing = float((other.load - self.load).max(initial=0))
        if missing > 1e-6 * max(1.0, float(self.load.max(initial=0))):
            raise InvalidStatisticsError(f"cannot subtract: {missing:g} tokens of an expert were never counted here")
        self.tokens = max(0.0, self.tokens - other.tokens)
        self.load = np.maximum(self.load - other.load, 0)
        self.pairs = np.maximum(self.pairs - other.pairs, 0)
        self.transitions = np.maximum(self.transitions - other.transitions, 0)
        self.sample.remove(other.sample)
        history, parts = ([side._open, *side.windows[::-1]] for side in (self, other))
        self._open, *windows = take_out(history, parts)
        self.windows = np.array(windows[::-1]).reshape(-1, *self.load.shape)

    def _check_same_model(self, other: RoutingStatistics) -> None:
        instance(MismatchError, "other", other, RoutingStatistics)
        if self.shape != other.shape:
            raise MismatchError(f"statistics of another model: {other.shape}, expected {self.shape}")

    def copy(self) -> RoutingStatistics:
        """An independent copy."""
        twin = RoutingStatistics(self.shape.layers, self.shape.experts, self.shape.top_k, 0, self.max_windows)
        twin.window_tokens, twin._length = self.window_tokens, self._length
        twin.tokens = self.tokens
        twin.load, twin.pairs, twin.transitions = self.load.copy(), self.pairs.copy(), self.transitions.copy()
        twin.windows, twin._open = self.windows.copy(), self._open.copy()
        twin.sample = self.sample.copy()
        return twin

    @classmethod
    def of_ids(
        cls, ids: ArrayLike, experts: int, capacity: int = DEFAULT_CAPACITY, windows: int = 16,
        seed: int | None = None, gates: ArrayLike | None = None,
    ) -> RoutingStatistics:  # fmt: skip
        """Statistics of a whole trace, cut into ``windows`` windows of equal length (what is added later as well).

        Args:
            ids: integers ``[tokens, layers, k]``.
            experts, capacity: as for the statistics.
            windows: how many, at least 1.
            seed: of the sample; without one it is drawn from the ids, so that equal traces give equal statistics and
                different ones do not share keys.
            gates: floats like ``ids``, where known.

        Raises:
            InvalidStatisticsError: as for the statistics and ``add``, or no windows.
        """
        array = integers(InvalidStatisticsError, "ids", ids, "[tokens, layers, k]")
        windows = whole(InvalidStatisticsError, "windows", windows, 1)
        weights = None if gates is None else checked_gates(InvalidStatisticsError, gates, array.shape)
        if seed is None:
            seed = int.from_bytes(hashlib.blake2b(np.asarray(ids).tobytes(), digest_size=16).digest())
        statistics = cls(array.shape[1], experts, array.shape[2], capacity, windows, seed, window_tokens=None)
        for part in np.array_split(np.arange(len(array)), windows):
            statistics.add(array[part], None if weights is None else weights[part])
            statistics.close_window()
        statistics.window_tokens = max(1, len(array) // windows)
        statistics._length = statistics.window_tokens
        return statistics

    @classmethod
    def of_loads(cls, loads: ArrayLike, top_k: int = 1) -> RoutingStatistics:
        """Statistics that know nothing but loads ``[layers, experts]``.

        Raises:
            InvalidStatisticsError: loads of another shape, negative, not finite or above 1e30, or such a ``top_k``.
        """
        array = checked_loads(InvalidStatisticsError, loads)
        statistics = cls(array.shape[0], array.shape[1], top_k, capacity=0)
        statistics.load = array
        statistics.tokens = float(array.sum(axis=1).max(initial=0) / top_k)
        diagonal = np.arange(array.shape[1])
        statistics.pairs[:, diagonal, diagonal] = array
        return statistics


def _co_occurrence(left: NDArray[np.int64], right: NDArray[np.int64], experts: int) -> NDArray[np.float32]:
    """float32 ``[experts, experts]``: tokens by (expert of ``left``, expert of ``right``), both ``[tokens, k]``."""
    stride = experts + 1  # NO_EXPERT is -1: row and column 0 collect it and are dropped
    cell = (left[:, :, None] + 1) * stride + (right[:, None, :] + 1)
    counts = np.bincount(cell.ravel(), minlength=stride * stride).reshape(stride, stride)
    return counts[1:, 1:].astype(np.float32)
