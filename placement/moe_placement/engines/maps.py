"""A placement as EPLB's maps, which vLLM and SGLang share in shape.

- vLLM (``vllm/distributed/eplb/eplb_state.py``, as it is since EPLB was added): ``physical_to_logical_map``
  ``[layers, slots]``, ``logical_to_physical_map`` ``[layers, experts, max copies]`` padded with -1,
  ``logical_replica_count`` ``[layers, experts]``. They are tensors in memory: no loader for files was found, so a
  policy plug-in has to hand the first map over.
- SGLang (``python/sglang/srt/eplb/expert_location.py``, read at commit 01fec5c2): ``--init-expert-location FILE.json``
  with ``{"physical_to_logical_map": [[...], ...]}``, one row per layer *of the model*: rows of dense layers are read
  and ignored. All ranks have equally many slots, and none may be empty.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_placement.checks import instance, integers, new_file, whole, wholes
from moe_placement.errors import InvalidPlacementError
from moe_placement.placement import EMPTY, Placement

_MOST_LAYERS = 1 << 16


@dataclass(frozen=True, slots=True)
class PhysicalMap:
    """EPLB's three maps.

    Attributes:
        physical_to_logical: int64 ``[layers, slots]``, the expert in each slot.
        logical_to_physical: int64 ``[layers, experts, max copies]``, the slots of each expert, padded with -1.
        replica_count: int64 ``[layers, experts]``.
    """

    physical_to_logical: NDArray[np.int64]
    logical_to_physical: NDArray[np.int64]
    replica_count: NDArray[np.int64]


def physical_map(placement: Placement) -> PhysicalMap:
    """EPLB's maps; empty slots are filled with further copies of what their shard holds already.

    Raises:
        InvalidPlacementError: no layers, shards of different size, or a shard without any expert in a layer.
    """
    instance(InvalidPlacementError, "placement", placement, Placement)
    whole(InvalidPlacementError, "layers of the placement", placement.layers, 1)
    if len(set(placement.shard_slots)) != 1:
        raise InvalidPlacementError(
            f"these engines need equally many slots on every shard, got {placement.shard_slots}"
        )
    filled = _without_gaps(placement)
    layers, slots = filled.shape
    count = np.stack([np.bincount(row, minlength=placement.experts) for row in filled])
    inverse = np.full((layers, placement.experts, int(count.max())), -1, dtype=np.int64)
    for layer, row in enumerate(filled):
        order = np.argsort(row, kind="stable")
        rank = np.arange(slots) - np.searchsorted(row[order], row[order])
        inverse[layer, row[order], rank] = order
    return PhysicalMap(filled, inverse, count.astype(np.int64))


def _without_gaps(placement: Placement) -> NDArray[np.int64]:
    filled = placement.slots.astype(np.int64)
    per_shard = placement.shard_slots[0]
    for layer, slot in np.argwhere(filled == EMPTY):
        begin = slot // per_shard * per_shard
        inside = filled[layer, begin : begin + per_shard]
        held = inside[inside != EMPTY]
        if not len(held):
            raise InvalidPlacementError(
                f"layer {layer}: shard {slot // per_shard} holds no expert; it cannot be exported"
            )
        filled[layer, slot] = held[0]
    return filled


def from_physical_to_logical(rows: ArrayLike, shards: int, experts: int) -> Placement:
    """The placement that an engine's ``physical_to_logical_map`` describes.

    Raises:
        InvalidPlacementError: slots that do not divide among the shards, or not a placement.
    """
    slots = integers(InvalidPlacementError, "physical_to_logical_map", rows, "[layers, slots]")
    if slots.shape[1] % whole(InvalidPlacementError, "shards", shards, 1):
        raise InvalidPlacementError(f"a map of shape {slots.shape} does not divide among {shards} shards")
    return Placement.of(slots, [slots.shape[1] // shards] * shards, experts)


def write_sglang_location(
    path: str | Path, placement: Placement, moe_layers: Sequence[int] | None = None, model_layers: int | None = None
) -> None:
    """Write the JSON file for SGLang's ``--init-expert-location``.

    Args:
        path: ends in ``.json``.
        placement: its layers are the MoE layers only.
        moe_layers: the model's numbers of these; default 0, 1, …
        model_layers: layers of the model; rows of dense ones repeat the first row.

    Raises:
        InvalidPlacementError: another suffix (SGLang goes by it), no such folder, other layers than the placement's,
            or what ``physical_map`` refuses.
    """
    target = new_file(InvalidPlacementError, path, (".json",))
    mapped = physical_map(placement).physical_to_logical
    named = range(placement.layers) if moe_layers is None else moe_layers
    numbers = wholes(InvalidPlacementError, "moe_layers", named, most=_MOST_LAYERS)
    total = max(numbers, default=-1) + 1
    if model_layers is not None:
        total = whole(InvalidPlacementError, "model_layers", model_layers, most=_MOST_LAYERS)
    if len(set(numbers)) != len(numbers) or len(numbers) != placement.layers or max(numbers, default=0) >= total:
        raise InvalidPlacementError(
            f"moe_layers must name {placement.layers} different layers below {total}, got {list(numbers)}"
        )
    rows = np.repeat(mapped[:1], total, axis=0)
    rows[list(numbers)] = mapped
    target.write_text(json.dumps({"physical_to_logical_map": rows.tolist()}) + "\n")
