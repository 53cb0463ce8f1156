"""The original EPLB (deepseek-ai/EPLB, ``eplb.py``) from a user's checkout, beside the package's own baselines."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.loads import even_split, shaped
from benchmarks.brain.report import Row
from moe_placement import Placement
from moe_placement.baselines import POLICIES
from moe_placement.topology import h100_nodes


def rows(checkout: Path) -> list[Row]:
    """Mean balance and time of both policies on one load shape; ours should agree with the original's."""
    import torch  # noqa: PLC0415 - only this comparison needs it

    source = checkout / "eplb.py" if checkout.is_dir() else checkout
    spec = importlib.util.spec_from_file_location("original_eplb_source", source)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--eplb: {source} is not a Python file; give the checkout of deepseek-ai/EPLB")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    topology = h100_nodes(p.NODES, p.GPUS_PER_NODE, p.SLOTS_PER_GPU)
    load = shaped("lognormal-1.0", p.LAYERS, p.EXPERTS, np.random.default_rng(1))
    found = []
    for name, groups, nodes in (("eplb-global", 1, 1), ("eplb-hierarchical", 2 * p.NODES, p.NODES)):
        begin = time.perf_counter()
        slots, _, _ = module.rebalance_experts(
            torch.tensor(load * 1e6), int(topology.slots.sum()), groups, nodes, topology.shards
        )
        seconds = time.perf_counter() - begin
        theirs = Placement.of(slots.numpy(), topology.shard_slots, p.EXPERTS)
        ours = POLICIES[name](load, topology)
        for kind, placement in (("original", theirs), ("our baseline", ours)):
            balance = float((1 / even_split(load, placement, topology).max(axis=1)).mean())
            found.append(Row(2, f"{name}, {kind}: mean balance", balance))
        found.append(Row(1, f"{name}, original: seconds", seconds, unit=" s"))
    return found
