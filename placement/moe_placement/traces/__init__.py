"""Whole expert sets of recorded or generated traffic: the file format, and generators where nothing was recorded."""

from moe_placement.traces.fitted import PairCounts, fitted_trace, load_pair_counts
from moe_placement.traces.generate import Traffic, generate_trace
from moe_placement.traces.trace import Trace, concatenate, read_trace, split_by_prompt, write_trace

__all__ = [
    "PairCounts",
    "Trace",
    "Traffic",
    "concatenate",
    "fitted_trace",
    "generate_trace",
    "load_pair_counts",
    "read_trace",
    "split_by_prompt",
    "write_trace",
]
