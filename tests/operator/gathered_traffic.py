"""Traffic of two domains, the statistics that a directory tells of it, and what the operator asks about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from moe_operator.placements.validity import Ground
from moe_operator.rebalance.proposal import Question
from moe_placement import Placement, RoutingStatistics, balanced_placement
from moe_placement.encoding import encode_placement
from moe_placement.statistics import decode_statistics, encode_statistics
from moe_placement.traces import Traffic, generate_trace

LAYERS, EXPERTS, TOP_K = 2, 16, 2

Ids = NDArray[np.int16]

SHARDS, SLOTS = 4, 5
GROUND = Ground("sha256:" + 64 * "a", LAYERS, EXPERTS, SHARDS, SLOTS, 1, 7)


def question(running: Placement | None = None, **more: object) -> Question:
    """About a placement that is balanced without regard to traffic."""
    running = running or balanced_placement(LAYERS, EXPERTS, (SLOTS,) * SHARDS)
    base = Question(
        now=0.0, ground=GROUND, revision=8, running=encode_placement(running), nodes=("a", "a", "b", "b"),
        bytes_per_expert=393216, dtype="float32", rows_per_step=64.0, link=1.25e9, least_gain=0.01,
        horizon=3600.0, attention=("b", "elsewhere"),
    )  # fmt: skip
    return replace(base, **more)  # type: ignore[arg-type]  # names are the test's


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
