"""The original EPLB (deepseek-ai/EPLB, ``eplb.py``) from a user's checkout, beside the package's own baselines."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.loads import even_split, shaped
from benchmarks.brain.report import Row
from moe_placement import Placement
from moe_placement.baselines import POLICIES
from moe_placement.errors import PlacementError
from moe_placement.topology import h100_nodes


def load_module(path: Path) -> ModuleType:
    """The original's module, from a checkout or from the file itself; it computes with torch.

    Raises:
        PlacementError: no such file, no torch, or not EPLB; the message names ``--eplb``, what is missing and the cure.
    """
    source = path / "eplb.py" if path.is_dir() else path
    if not source.is_file():
        raise PlacementError(f"--eplb {path}: there is no file {source}: give a checkout of deepseek-ai/EPLB")
    if importlib.util.find_spec("torch") is None:
        raise PlacementError(f"--eplb {path} needs torch, which is not installed: pip install 'moe-operator[serving]'")
    spec = importlib.util.spec_from_file_location("original_eplb_source", source)
    if spec is None or spec.loader is None:
        raise PlacementError(f"--eplb: {source} is not a Python file: give a checkout of deepseek-ai/EPLB")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PlacementError(f"--eplb: {source} cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(module, "rebalance_experts"):
        raise PlacementError(f"--eplb: {source} has no rebalance_experts: give a checkout of deepseek-ai/EPLB")
    return module


def rows(module: ModuleType) -> list[Row]:
    """Mean balance and time of both policies on one load shape; ours should agree with the original's."""
    import torch  # noqa: PLC0415 - only this comparison needs it

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
