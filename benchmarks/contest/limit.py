"""What memory allows: a step of decoding cannot be faster than the bytes that it must read."""

from __future__ import annotations

import time
from dataclasses import dataclass

READ_BYTES = 512 << 20
"""Read at a time to measure the bandwidth: many times what any cache holds."""
READS = 9


@dataclass(frozen=True, slots=True)
class StepBytes:
    """Bytes read in a step of decoding.

    Attributes:
        others: weights that belong to no expert, without the embeddings, of which a step reads a row a token.
        experts: of all different experts that a step's tokens choose, all layers together, the mean over steps.
        cache: keys and values, the mean over steps.
    """

    others: float
    experts: float
    cache: float

    @property
    def total(self) -> float:
        return self.others + self.experts + self.cache


def tokens_per_second(step: StepBytes, batch: int, bandwidth: float) -> float:
    """The most that ``batch`` sequences can get.

    Args:
        bandwidth: bytes a second.
    """
    return batch * bandwidth / step.total


def read_bandwidth() -> float:
    """Bytes a second that torch reads with the threads that it has: the fastest of some reads."""
    import torch  # noqa: PLC0415 - only where it is measured

    values = torch.ones(READ_BYTES // 4)
    fastest = float("inf")
    for _ in range(READS):
        begin = time.perf_counter()
        values.sum()
        fastest = min(fastest, time.perf_counter() - begin)
    return values.nbytes / fastest
