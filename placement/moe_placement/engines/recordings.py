"""What other engines record about routing, read into this package's types.

- SGLang's expert distribution recorder (``python/sglang/srt/eplb/expert_distribution.py``, as on its main branch in
  2025) dumps ``expert_distribution_recorder_<time>.pt``. Mode ``stat``: ``{"rank", "logical_count": [steps, layers,
  experts]}``, later also ``average_utilization_rate_over_window``. Mode ``per_token``, one file per rank:
  ``{"records": [{"forward_pass_id", "rank", "input_ids", "positions", "topk_ids_of_layer": [layers, tokens, k] (-1:
  none), ...}], "last_physical_to_logical_map": [layers, slots]}``; its ids are physical slots.
- vLLM (``vllm/outputs.py``, with ``--enable-return-routed-experts``): ``CompletionOutput.routed_experts``, an integer
  array ``[tokens, layers, k]`` of logical ids per request.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_placement.engines.torchfile import read_torch_file
from moe_placement.errors import InvalidTraceError
from moe_placement.statistics import RoutingStatistics
from moe_placement.traces import Trace


def read_sglang_statistics(path: Path, top_k: int, moe_layers: Sequence[int] | None = None) -> RoutingStatistics:
    """Loads from a ``stat`` dump; every recorded step becomes a window (the newest 32 stay).

    Args:
        path: the ``.pt`` file.
        top_k: experts per token (not in the file).
        moe_layers: the rows that are MoE layers; default all that have any count.
    """
    counts = np.asarray(_field(path, read_torch_file(path), "logical_count"), dtype=np.float64)
    if counts.ndim != 3 or (counts < 0).any():
        raise InvalidTraceError(f"{path}: logical_count has shape {counts.shape}, expected [steps, layers, experts]")
    layers = [int(n) for n in (np.flatnonzero(counts.sum(axis=(0, 2)) > 0) if moe_layers is None else moe_layers)]
    if not layers or max(layers) >= counts.shape[1]:
        raise InvalidTraceError(f"{path}: no such MoE layers {layers} among {counts.shape[1]}, or no traffic")
    picked = counts[:, layers]
    statistics = RoutingStatistics.of_loads(picked.sum(axis=0), top_k)
    statistics.windows = picked[-statistics.max_windows :]
    return statistics


def read_sglang_details(paths: Sequence[Path], moe_layers: Sequence[int] | None = None) -> Trace:
    """Whole expert sets from ``per_token`` dumps; a prompt is what starts at position 0 of a forward pass."""
    ids, prompts = [], []
    experts = first = 0
    for path in paths:
        content = read_torch_file(path)
        logical = np.asarray(_field(path, content, "last_physical_to_logical_map"), dtype=np.int64)
        experts = max(experts, int(logical.max()) + 1)
        for record in _field(path, content, "records"):
            physical = np.asarray(_field(path, record, "topk_ids_of_layer"), dtype=np.int64)
            layers = np.arange(len(physical)) if moe_layers is None else np.asarray(moe_layers)
            mapped = _to_logical(physical[layers], logical[layers])
            ids.append(mapped.transpose(1, 0, 2))
            starts = np.asarray(record.get("positions", np.zeros(physical.shape[1]))) == 0
            prompts.append(first + np.cumsum(starts))
            first = int(prompts[-1].max(initial=first)) + 1
    if not ids:
        raise InvalidTraceError(f"no records in {[str(path) for path in paths]}")
    joined = np.concatenate(ids)
    keep = (joined >= 0).any(axis=(1, 2))
    count = int(keep.sum())
    return Trace(
        joined[keep].astype(np.int16),
        experts,
        np.concatenate(prompts)[keep].astype(np.int32),
        np.zeros(count, dtype=np.int16),
    )


def _to_logical(physical: NDArray[np.int64], logical: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[layers, tokens, k]`` physical slots to experts; -1 stays."""
    rows = np.arange(len(physical))[:, None, None]
    return np.where(physical >= 0, logical[rows, np.maximum(physical, 0)], -1)


def trace_from_vllm(outputs: Sequence[ArrayLike], experts: int) -> Trace:
    """Whole expert sets from ``routed_experts`` of requests, each ``[tokens, layers, k]``; a request is a prompt."""
    arrays = [np.asarray(output) for output in outputs]
    if not arrays or any(a.ndim != 3 or a.shape[1:] != arrays[0].shape[1:] for a in arrays):
        raise InvalidTraceError(f"routed_experts must be [tokens, layers, k] each, got {[a.shape for a in arrays]}")
    joined = np.concatenate(arrays)
    if not np.issubdtype(joined.dtype, np.integer):
        raise InvalidTraceError(f"routed_experts must be integers, got {joined.dtype}")
    prompt = np.repeat(np.arange(len(arrays)), [len(a) for a in arrays]).astype(np.int32)
    return Trace(joined.astype(np.int16), experts, prompt, np.zeros(len(joined), dtype=np.int16))


def _field(path: Path, content: Any, name: str) -> Any:
    if not isinstance(content, dict) or name not in content:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise InvalidTraceError(f"{path}: no {name} in it; found {found}")
    return content[name]
