"""Print how many H100 a model of 256 experts needs and what the brain's cost model says of them: `docs/sizing.md`.

python -m benchmarks.sizing                    the table of the document
python -m benchmarks.sizing --json FILE        the same as JSON, too

Memory is reckoned as the operator does (``moe_contract.memory``). A step is that of the experts alone: attention, its
cache and whatever the data plane adds are not in it. Loads are drawn anew from the same seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.brain.loads import shaped
from moe_contract.applications import DirectoryConfig
from moe_contract.memory import shard_bytes, slots_within, usable_bytes
from moe_contract.model import ModelFacts
from moe_placement.baselines import eplb_global
from moe_placement.simulation import simulate
from moe_placement.topology import Costs, Topology
from moe_placement.traces.generate import sample_sets

# DeepSeek-V3's experts in bfloat16: 58 MoE layers of 256 experts, 8 for each token, three matrices of 7168 x 2048.
WIDTH, INNER, BYTES = 7168, 2048, 2
FACTS = ModelFacts(
    digest="sha256:0", architecture="DeepseekV3", layers=58, experts=256, top_k=8,
    bytes_per_expert=3 * WIDTH * INNER * BYTES, dtype="bfloat16", max_context=4096,
)  # fmt: skip
# As the driver of an H100 of 80 GB tells it: 81,559 MiB.
GPU_MEMORY, GPUS_OF_A_NODE = 81559 << 20, 8
SPARE = DirectoryConfig().spare_slots
SLOTS = slots_within(FACTS, usable_bytes(GPU_MEMORY, 1.0, is_gpu=True), SPARE)
# Measured on one H100 with a smaller model: grouped kernels at 95% of 3.0 TB/s, and 16 to 31 us for a decision on the
# host in each layer. Half of the data sheet's arithmetic in bfloat16, and its links, which were not measured.
COSTS = Costs(
    bytes_per_expert=FACTS.bytes_per_expert,
    flop_per_pair=2 * 3 * WIDTH * INNER,
    dispatch_bytes=WIDTH * BYTES,
    combine_bytes=WIDTH * BYTES,
    memory_bandwidth=0.95 * 3.0e12,
    flops=0.5 * 989e12,
    launch=30e-6,
)
LOAD, SEED, TOKENS, LAYERS = "lognormal-0.7", 7, 2048, 2
"""How much experts differ in load, and on how many tokens and layers that is tried."""
NODES, TOKENS_PER_GPU = (3, 4, 5, 6, 8), (32, 256)


@dataclass(frozen=True, slots=True)
class Row:
    """One size of a cluster under one load; ``ms``: of one step through all MoE layers."""

    gpus: int
    nodes: int
    slots: int
    copies: float
    tokens_per_step: int
    balance: float
    ms: float
    tokens_per_second: float


def rows() -> Iterator[Row]:
    random = np.random.default_rng(SEED)
    load = shaped(LOAD, LAYERS, FACTS.experts, random)
    ids = sample_sets(np.tile(np.log(load), (TOKENS, 1)), FACTS.top_k, random).reshape(TOKENS, LAYERS, FACTS.top_k)
    for nodes in NODES:
        gpus = nodes * GPUS_OF_A_NODE
        for each in TOKENS_PER_GPU:
            costs = replace(COSTS, tokens_per_step=gpus * each)
            topology = Topology(tuple(np.repeat(range(nodes), GPUS_OF_A_NODE).tolist()), (SLOTS,) * gpus, costs=costs)
            figures = simulate(ids, eplb_global(load, topology), topology)
            seconds = FACTS.layers * figures.seconds
            yield Row(
                gpus=gpus,
                nodes=nodes,
                slots=SLOTS,
                copies=gpus * SLOTS / FACTS.experts,
                tokens_per_step=gpus * each,
                balance=figures.shard_balance,
                ms=seconds * 1e3,
                tokens_per_second=gpus * each / seconds,
            )


def table(found: list[Row]) -> str:
    """As the document has it."""
    columns = "GPUs (nodes)", "slots per layer", "copies", "tokens in a step", "balance", "ms a step", "tokens/s"
    lines = [
        f"| {row.gpus} ({row.nodes}) | {row.slots} | {row.copies:.2f} | {row.tokens_per_step} | {row.balance:.2f} | "
        f"{row.ms:.1f} | {row.tokens_per_second:.0f} |"
        for row in found
    ]
    head = f"| {' | '.join(columns)} |"
    return "\n".join([head, "|" + "---|" * len(columns), *lines])


def memory() -> str:
    """What a GPU holds, and how many hold the model."""
    taken = shard_bytes(FACTS, SLOTS, SPARE) / 2**30
    one, two = -(-FACTS.experts // SLOTS), -(-2 * FACTS.experts // SLOTS)
    held = f"{taken:.1f} GiB of a GPU hold {SLOTS} slots in each of {FACTS.layers} layers"
    return f"{held}: {one} GPUs hold one copy of each expert, {two} hold two."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = list(rows())
    print(f"{memory()}\n\n{table(found)}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in found], indent=1))


if __name__ == "__main__":
    main()
