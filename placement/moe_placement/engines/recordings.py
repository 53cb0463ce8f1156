"""What other engines record about routing, read into this package's types.

- SGLang's expert distribution recorder (``python/sglang/srt/eplb/expert_distribution.py``, read at commit 02295fe5)
  dumps ``expert_distribution_recorder_<time>.pt``. Mode ``stat``: ``{"rank", "logical_count": [steps, layers,
  experts]}``, later also ``average_utilization_rate_over_window``. Mode ``per_token``, one file per rank:
  ``{"records": [{"forward_pass_id", "rank", "input_ids", "positions", "extend_seq_lens" (None where the pass decodes),
  "forward_mode", "topk_ids_of_layer": [layers, tokens, 8] (-1: none), ...}], "last_physical_to_logical_map":
  [layers, slots]}``; its ids are physical slots.
- vLLM (``vllm/outputs.py``, with ``--enable-return-routed-experts``): ``CompletionOutput.routed_experts``, an integer
  array ``[tokens, layers of the model, k]`` of logical ids per request. Its buffer
  (``layers/fused_moe/routed_experts_capturer.py``, read at commit 00bd1493) starts as zeros, and so a dense layer, or a
  token that was not captured, reads as expert 0 chosen k times.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_placement.checks import MOST_EXPERTS, integers, items, whole, wholes
from moe_placement.checks import ids as checked_ids
from moe_placement.engines.prompts import PromptNumbers, RankPasses
from moe_placement.engines.torchfile import read_torch_file
from moe_placement.errors import InvalidTraceError
from moe_placement.statistics import RoutingStatistics
from moe_placement.traces import Trace


def read_sglang_statistics(path: str | Path, top_k: int, moe_layers: Sequence[int] | None = None) -> RoutingStatistics:
    """Loads from a ``stat`` dump; every recorded step becomes a window (the newest 32 stay).

    Args:
        path: the ``.pt`` file.
        top_k: experts per token (not in the file).
        moe_layers: the rows that are MoE layers; default all that have any count.

    Raises:
        InvalidTraceError: not such a dump, or no such layers.
        InvalidStatisticsError: not such a ``top_k``.
    """
    counts = _integers(path, read_torch_file(path), "logical_count", "[steps, layers, experts]")
    if counts.min(initial=0) < 0:
        raise InvalidTraceError(f"{path}: logical_count holds {counts.min()}")
    layers = _chosen_layers(path, np.asarray(counts.any(axis=(0, 2))), moe_layers)
    picked = counts[:, layers].astype(np.float64)
    statistics = RoutingStatistics.of_loads(picked.sum(axis=0), top_k)
    statistics.windows = picked[-statistics.max_windows :]
    return statistics


def read_sglang_details(paths: Sequence[str | Path], moe_layers: Sequence[int] | None = None) -> Trace:
    """Whole expert sets from ``per_token`` dumps.

    Which rows are of one request is not recorded; ``prompts`` says how it is found out, and that in doubt requests are
    taken for one. Requests already running when the recording began are one prompt for each rank.

    Args:
        paths: dumps, each rank's in order of time; of ranks that see the same tokens give only one.
        moe_layers: the rows that are MoE layers; default all that have any expert.

    Raises:
        InvalidTraceError: not such dumps, or no such layers.
    """
    ids, numbers, experts = [], [], 0
    prompts = PromptNumbers()
    ranks: dict[int, RankPasses] = {}
    paths = items(InvalidTraceError, "paths", paths)
    for path in paths:
        content = read_torch_file(path)
        logical = _integers(path, content, "last_physical_to_logical_map", "[layers, slots]")
        experts = max(experts, int(logical.max(initial=-1)) + 1)
        for record in _records(path, content):
            physical = _integers(path, record, "topk_ids_of_layer", "[layers, tokens, k]")
            mapped = _to_logical(path, physical, logical)
            rank = whole(InvalidTraceError, f"{path}: rank", _field(path, record, "rank"))
            passes = ranks.setdefault(rank, RankPasses(prompts))
            numbers += _numbered(path, record, passes, mapped.shape[1])
            ids.append(mapped.transpose(1, 0, 2))
    if len({array.shape[1:] for array in ids}) != 1:
        raise InvalidTraceError(f"no records, or records of different models, in {[str(path) for path in paths]}")
    joined = np.concatenate(ids)
    layers = _chosen_layers(paths[0], np.asarray((joined >= 0).any(axis=(0, 2))), moe_layers)
    return _trace(joined[:, layers], experts, prompts.resolved(np.asarray(numbers, dtype=np.int64)))


def trace_from_vllm(outputs: Sequence[ArrayLike], experts: int, moe_layers: Sequence[int] | None = None) -> Trace:
    """Whole expert sets from ``routed_experts`` of requests; a request is a prompt.

    Args:
        outputs: integers ``[tokens, layers of the model, k]`` of each request.
        experts: experts per layer.
        moe_layers: which of the layers are MoE layers; default all, but for k > 1 those whose sets are all zeros are
            dense. For k = 1 a dense layer cannot be told from one that always chooses expert 0: name them.

    Raises:
        InvalidTraceError: other shapes, no integers, ids out of range, or no such layers.
    """
    experts = whole(InvalidTraceError, "experts", experts, 1, MOST_EXPERTS)
    arrays = [
        checked_ids(InvalidTraceError, f"routed_experts of request {number}", output, "[tokens, layers, k]", experts)
        for number, output in enumerate(items(InvalidTraceError, "outputs", outputs))
    ]
    if not arrays or any(a.shape[1:] != arrays[0].shape[1:] for a in arrays):
        raise InvalidTraceError(f"routed_experts must be [tokens, layers, k] each, got {[a.shape for a in arrays]}")
    joined = np.concatenate(arrays)
    if joined.shape[2] > 1:
        joined = np.where((joined == 0).all(axis=2, keepdims=True), -1, joined)
    layers = _chosen_layers("routed_experts", np.asarray((joined >= 0).any(axis=(0, 2))), moe_layers)
    return _trace(joined[:, layers], experts, np.repeat(np.arange(len(arrays)), [len(a) for a in arrays]))


def _trace(ids: NDArray[np.integer], experts: int, prompt: NDArray[np.integer]) -> Trace:
    """Without tokens that chose nothing, and without columns beyond the k of the model."""
    chosen = ids >= 0
    tokens, columns = chosen.any(axis=(1, 2)), chosen.any(axis=(0, 1))
    return Trace(ids[tokens][:, :, columns], experts, prompt[tokens], np.zeros(int(tokens.sum()), dtype=np.int16))


def _chosen_layers(source: object, used: NDArray[np.bool_], moe_layers: Sequence[int] | None) -> list[int]:
    """Those asked for, or all that were used."""
    if moe_layers is None:
        layers = [int(n) for n in np.flatnonzero(used)]
    else:
        layers = list(wholes(InvalidTraceError, f"{source}: moe_layers", moe_layers, most=len(used) - 1))
    if not layers:
        raise InvalidTraceError(f"{source}: no traffic in any of {len(used)} layers, or moe_layers names none")
    if len(set(layers)) != len(layers):
        raise InvalidTraceError(f"{source}: moe_layers names a layer twice: {layers}")
    return layers


def _records(path: str | Path, content: Any) -> list[Any]:
    records = _field(path, content, "records")
    if not isinstance(records, list):
        raise InvalidTraceError(f"{path}: records must be a list, got {type(records).__name__}")
    return records


def _numbered(path: str | Path, record: Any, passes: RankPasses, tokens: int) -> list[int]:
    """The request's number for each token of a forward pass."""
    positions = _integers(path, record, "positions", "[tokens]")
    if len(positions) != tokens:
        raise InvalidTraceError(f"{path}: {len(positions)} positions for {tokens} tokens")
    if _field(path, record, "extend_seq_lens") is None:
        return passes.decode(positions.tolist())
    lengths = _integers(path, record, "extend_seq_lens", "[requests]")
    if lengths.min(initial=0) < 0 or lengths.sum() > tokens:
        raise InvalidTraceError(f"{path}: extend_seq_lens {lengths.tolist()} for {tokens} tokens")
    return passes.extend(positions.tolist(), lengths.tolist())


def _to_logical(path: str | Path, physical: NDArray[np.int64], logical: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[layers, tokens, k]`` physical slots to experts; -1 stays."""
    if len(physical) != len(logical) or physical.max(initial=-1) >= logical.shape[1]:
        raise InvalidTraceError(
            f"{path}: slots up to {physical.max(initial=-1)} in {len(physical)} layers, the map is {logical.shape}"
        )
    rows = np.arange(len(physical))[:, None, None]
    return np.where(physical >= 0, logical[rows, np.maximum(physical, 0)], -1)


def _integers(path: str | Path, content: Any, name: str, shape: str) -> NDArray[np.int64]:
    return integers(InvalidTraceError, f"{path}: {name}", _field(path, content, name), shape)


def _field(path: str | Path, content: Any, name: str) -> Any:
    if not isinstance(content, dict) or name not in content:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise InvalidTraceError(f"{path}: no {name} in it; found {found}")
    return content[name]
