"""Bridges to other engines: their load and routing recordings in, the maps that they load out. No torch needed."""

from moe_placement.engines.maps import (
    PhysicalMap,
    from_physical_to_logical,
    physical_map,
    write_sglang_location,
)
from moe_placement.engines.recordings import (
    read_sglang_details,
    read_sglang_statistics,
    trace_from_vllm,
)

__all__ = [
    "PhysicalMap",
    "from_physical_to_logical",
    "physical_map",
    "read_sglang_details",
    "read_sglang_statistics",
    "trace_from_vllm",
    "write_sglang_location",
]
