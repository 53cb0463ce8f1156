"""Bridges to other engines: their load and routing recordings in, the maps that they load out. No torch needed."""

from moe_placement.engines.files import read_physical_map, read_vllm_outputs
from moe_placement.engines.layers import ModelLayers, model_layers, read_model_layers
from moe_placement.engines.maps import (
    PhysicalMap,
    from_physical_to_logical,
    physical_map,
    write_sglang_location,
    write_vllm_maps,
)
from moe_placement.engines.recordings import (
    read_sglang_details,
    read_sglang_statistics,
    trace_from_vllm,
)

__all__ = [
    "ModelLayers",
    "PhysicalMap",
    "from_physical_to_logical",
    "model_layers",
    "physical_map",
    "read_model_layers",
    "read_physical_map",
    "read_sglang_details",
    "read_sglang_statistics",
    "read_vllm_outputs",
    "trace_from_vllm",
    "write_sglang_location",
    "write_vllm_maps",
]
