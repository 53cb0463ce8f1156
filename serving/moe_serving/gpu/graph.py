"""Steps in which every sequence decodes, as one CUDA graph: the host launches once instead of a dozen times a layer.

**Not run yet**, since it cannot be without a GPU; nothing but ``benchmarks/gpu`` uses it. A graph is of one lean step,
one cache as it lies, and one number of sequences, whose experts must all be in this process (``client``): it holds
their addresses.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from moe_serving.engine.cache import KeyValueCache
from moe_serving.engine.lean.step import Inputs, LeanStep

WARM_UP = 3
"""Steps before the capture: kernels are compiled, and libraries choose theirs, where that may take memory."""

_BLOCK = "block"
"""The only input that is no tensor: it is a part of the kernels."""


class DecodingGraph:
    """Args:
    inputs: of one such step, which is computed several times: what it files in the cache stays the same. Tables must
        be as wide as those of any later step.
    """

    def __init__(self, lean: LeanStep, cache: KeyValueCache, inputs: Inputs) -> None:
        given = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
        self._inputs = replace(inputs, **{name: each.clone() for name, each in given.items() if name != _BLOCK})
        beside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types for it
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                lean.compute(self._inputs, (), cache)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = lean.compute(self._inputs, (), cache)

    def logits(self, inputs: Inputs) -> Tensor:
        """As ``LeanStep.compute``; overwritten by the next call."""
        for name in (field.name for field in fields(inputs) if field.name != _BLOCK):
            own, given = getattr(self._inputs, name), getattr(inputs, name)
            (own if own.shape == given.shape else own[:, : given.shape[1]]).copy_(given)
        self.replay()
        return self._logits

    def replay(self) -> None:
        """The step once more."""
        self._graph.replay()
