"""Print what the choice of a token costs per row of logits, in CPU time of one thread.

python -m benchmarks.sampling [--vocabulary 150000] [--json build/sampling.json]

Rows are peaked as a language model's: a few likely tokens above a wide field of unlikely ones. Exit 1 when the noise of
a draw, where ``top_p`` leaves few tokens, takes more than 0.2 ms per row.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from moe_serving.engine.noise import gumbel, noise_bits
from moe_serving.engine.request import Sampling
from moe_serving.engine.sampler import choose_tokens

ROWS = (1, 8, 32)
REPEATS = 50
AIM_MS = 0.2
WAYS = {
    "greedy": Sampling(max_tokens=1),
    "top_p 0.9": Sampling(max_tokens=1, temperature=0.8, top_p=0.9),
    "top_p 0.999": Sampling(max_tokens=1, temperature=0.8, top_p=0.999),
    "top_k 20, top_p 0.95": Sampling(max_tokens=1, temperature=0.6, top_k=20, top_p=0.95),
    "min_p 0.05": Sampling(max_tokens=1, temperature=0.8, min_p=0.05),
    "whole vocabulary": Sampling(max_tokens=1, temperature=0.8),
}


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds per row of a batch: the median of repeated calls, and the fastest."""

    what: str
    rows: int
    median_ms: float
    fastest_ms: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [row for count in ROWS for row in _measure(count, options.vocabulary)]
    print(f"{'':<40}{'rows':>6}{'median':>12}{'fastest':>12}   ms per row, vocabulary {options.vocabulary}")
    for row in rows:
        print(f"{row.what:<40}{row.rows:>6}{row.median_ms:>12.3f}{row.fastest_ms:>12.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    return int(any(row.median_ms > AIM_MS for row in rows if row.what.startswith("noise")))


def _measure(count: int, vocabulary: int) -> list[Row]:
    logits = torch.randn(count, vocabulary, generator=torch.Generator().manual_seed(0)) * 2.5
    logits[:, :30] += 15
    seeds, positions = list(range(count)), [3] * count
    few = torch.arange(64).expand(count, -1)
    rows = [_time("noise of the tokens left", count, lambda: gumbel(noise_bits(seeds, positions, few)))]
    for name, how in WAYS.items():
        hows = [how] * count
        rows.append(_time(name, count, lambda hows=hows: choose_tokens(logits, hows, positions)))  # type: ignore[misc]
    return rows


def _time(what: str, count: int, call: Callable[[], object]) -> Row:
    call()
    taken = []
    for _ in range(REPEATS):
        begin = time.thread_time()
        call()
        taken.append((time.thread_time() - begin) * 1000 / count)
    taken.sort()
    return Row(what, count, taken[len(taken) // 2], taken[0])


if __name__ == "__main__":
    sys.exit(main())
