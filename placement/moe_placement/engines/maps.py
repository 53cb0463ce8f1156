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
from moe_placement.checks import loads as checked_loads
from moe_placement.engines.layers import MOST_LAYERS, ModelLayers
from moe_placement.errors import InvalidPlacementError
from moe_placement.placement import EMPTY, Placement


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


def physical_map(placement: Placement, load: ArrayLike | None = None) -> PhysicalMap:
    """EPLB's maps. These engines know no empty slots: each is filled with a copy of an expert that its shard does not
    hold, so that loads end as even as they can.

    Args:
        placement: of shards of one size.
        load: ``[layers, experts]``, what each expert carries; without it all count alike.

    Raises:
        InvalidPlacementError: no layers, shards of different size, or loads of another shape.
    """
    instance(InvalidPlacementError, "placement", placement, Placement)
    whole(InvalidPlacementError, "layers of the placement", placement.layers, 1)
    if len(set(placement.shard_slots)) != 1:
        raise InvalidPlacementError(
            f"these engines need equally many slots on every shard, got {placement.shard_slots}"
        )
    shape = placement.layers, placement.experts
    loads = np.ones(shape) if load is None else checked_loads(InvalidPlacementError, load)
    if loads.shape != shape:
        raise InvalidPlacementError(f"loads are of shape {loads.shape}, the placement is of (layers, experts) {shape}")
    filled = _filled(placement, loads)
    layers, slots = filled.shape
    count = np.stack([np.bincount(row, minlength=placement.experts) for row in filled])
    inverse = np.full((layers, placement.experts, int(count.max())), -1, dtype=np.int64)
    for layer, row in enumerate(filled):
        order = np.argsort(row, kind="stable")
        rank = np.arange(slots) - np.searchsorted(row[order], row[order])
        inverse[layer, row[order], rank] = order
    return PhysicalMap(filled, inverse, count.astype(np.int64))


def _filled(placement: Placement, loads: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64 ``[layers, slots]`` without empty slots."""
    filled = placement.slots.astype(np.int64)
    for layer in np.flatnonzero((filled == EMPTY).any(axis=1)):
        # A little for each, so that experts without load are spread as well.
        load = loads[layer] + max(float(loads[layer].mean()), 1.0) * 1e-6
        _fill_layer(filled[layer], load, placement.held_in(int(layer)), placement.shard_slots[0])
    return filled


def _fill_layer(row: NDArray[np.int64], load: NDArray[np.float64], held: NDArray[np.bool_], per_shard: int) -> None:
    """Fill the empty slots of one layer one by one, each time with the copy after which the squares of the shards'
    loads sum to least; these engines share an expert's load evenly among its slots.

    Args:
        row: int64 ``[slots]``, changed.
        load: float64 ``[experts]``.
        held: bool ``[experts, shards]``, changed.
        per_shard: slots of each shard.
    """
    copies = np.bincount(row[row != EMPTY], minlength=len(load)).astype(np.float64)
    held_slots = np.stack(
        [np.bincount(part[part != EMPTY], minlength=len(load)) for part in row.reshape(-1, per_shard)], axis=1
    ).astype(np.float64)
    free = (row.reshape(-1, per_shard) == EMPTY).sum(axis=1)
    while free.any():
        shard_load = (load / copies) @ held_slots
        taken = load / (copies * (copies + 1))  # from each slot that has the expert
        given = load / (copies + 1)
        relief = 2 * taken * (held_slots @ shard_load) - taken**2 * (held_slots**2).sum(axis=1)
        change = 2 * given[:, None] * shard_load + given[:, None] ** 2 - relief[:, None]
        # Where the shard has the expert already, both terms meet in one square.
        change -= 2 * given[:, None] * taken[:, None] * held_slots
        twice = held | (free == 0)
        if not twice.all():
            change[twice] = np.inf
        else:  # all that has room holds all experts
            change[:, free == 0] = np.inf
        expert, shard = np.unravel_index(int(np.argmin(change)), change.shape)
        slots = row[shard * per_shard : (shard + 1) * per_shard]
        slots[np.flatnonzero(slots == EMPTY)[0]] = expert
        held[expert, shard] = True
        held_slots[expert, shard] += 1
        copies[expert] += 1
        free[shard] -= 1


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
    path: str | Path, placement: Placement, moe_layers: Sequence[int], model_layers: int | None = None,
    load: ArrayLike | None = None,
) -> None:  # fmt: skip
    """Write the JSON file for SGLang's ``--init-expert-location``.

    Args:
        path: ends in ``.json``.
        placement: its layers are the MoE layers only.
        moe_layers: the model's numbers of these (``layers.read_model_layers`` tells them): row n of the file is the
            model's layer n.
        model_layers: layers of the model, dense ones included, whose rows repeat the first one (they are read and
            ignored); default up to the last MoE layer.
        load: as for ``physical_map``.

    Raises:
        InvalidPlacementError: another suffix (SGLang goes by it), no such folder, other layers than the placement's,
            or what ``physical_map`` refuses.
    """
    target = new_file(InvalidPlacementError, path, (".json",))
    mapped = physical_map(placement, load).physical_to_logical
    numbers = wholes(InvalidPlacementError, "moe_layers", moe_layers, most=MOST_LAYERS - 1)
    total = max(numbers, default=-1) + 1 if model_layers is None else model_layers
    layers = ModelLayers(numbers, total)
    if len(layers.moe) != placement.layers:
        raise InvalidPlacementError(
            f"moe_layers must name {placement.layers} different layers below {total}, got {list(numbers)}"
        )
    rows = np.repeat(mapped[:1], layers.total, axis=0)
    rows[list(layers.moe)] = mapped
    target.write_text(json.dumps({"physical_to_logical_map": rows.tolist()}) + "\n")


def write_vllm_maps(path: str | Path, placement: Placement, load: ArrayLike | None = None) -> None:
    """Write EPLB's three maps under vLLM's names, for a policy plug-in to load: rows are the MoE layers only, as there.

    Raises:
        InvalidPlacementError: the name does not end in ``.npz``, no such folder, or what ``physical_map`` refuses.
    """
    target = new_file(InvalidPlacementError, path, (".npz",))
    maps = physical_map(placement, load)
    np.savez_compressed(
        target, physical_to_logical_map=maps.physical_to_logical, logical_to_physical_map=maps.logical_to_physical,
        logical_replica_count=maps.replica_count,
    )  # fmt: skip
