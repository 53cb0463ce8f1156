"""Traffic of two domains, and the statistics that a directory tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from moe_placement import RoutingStatistics
from moe_placement.statistics import decode_statistics, encode_statistics
from moe_placement.traces import Traffic, generate_trace

LAYERS, EXPERTS, TOP_K = 3, 16, 2

Ids = NDArray[np.int16]


@cache
def domains(tokens: int, seed: int = 0) -> tuple[Ids, Ids]:
    """Sets of two kinds of text, ``[tokens, layers, k]`` each: other experts are chosen together in the second."""
    traffic = Traffic(
        tokens=2 * tokens, layers=LAYERS, experts=EXPERTS, top_k=TOP_K, prompt_tokens=8, communities=4, affinity=3.0,
    )  # fmt: skip
    ids = generate_trace(traffic, seed).ids.astype(np.int16)
    other = np.random.default_rng(seed).permutation(EXPERTS).astype(np.int16)
    return ids[:tokens], other[ids[tokens:]]


@dataclass
class Gathered:
    """Of one replica, as the data plane gathers it."""

    now: float = 1_000_000.0
    half_life: float = 3600.0
    statistics: RoutingStatistics = field(
        default_factory=lambda: RoutingStatistics(LAYERS, EXPERTS, TOP_K, seed=7, window_tokens=None)
    )

    def wait(self, seconds: float) -> None:
        """Nothing comes."""
        self.now += seconds
        self.statistics.decay(0.5 ** (seconds / self.half_life))

    def answer(self, ids: Ids, seconds: float = 10.0) -> None:
        """A window in which these rows come, one after the other."""
        for part in np.array_split(ids, 10):
            self.wait(seconds / 10)
            self.statistics.add(part)
        self.statistics.close_window()

    def told(self) -> bytearray:
        return bytearray(encode_statistics(self.statistics))

    def seen(self) -> RoutingStatistics:
        """As whoever asks gets them."""
        return decode_statistics(encode_statistics(self.statistics))
