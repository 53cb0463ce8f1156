"""The lean step: for each layer two norms, three multiplications, and one kernel each for what lies between.

It computes what transformers' modules do, in the same order, for all tokens of a step at once: those that decode attend
in one call, however many they are; chunks of prompts one by one, by torch's own attention. For the engine thread only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moe_serving.engine.attention import attend_span
from moe_serving.engine.block_allocator import stack_tables
from moe_serving.engine.cache import KeyValueCache
from moe_serving.engine.experts import ExpertsClient
from moe_serving.engine.lean import kernels
from moe_serving.engine.lean.kernels import Floats, Ints, Rows
from moe_serving.engine.lean.layers import Attention, Gate, Layer, take_layers
from moe_serving.engine.lean.workspace import Widths, Workspace, Workspaces, as_array
from moe_serving.engine.packing import PackedTokens, Span


@dataclass(frozen=True, slots=True)
class _Decoding:
    """The tokens that are the last of their sequences, as ``kernels.attend`` takes them."""

    tokens: Ints
    tables: Ints
    block: int
    lengths: Ints
    firsts: Mapping[int, Ints]
    """By window."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What all layers of a step share.

    Attributes:
        rows: of the cache, for each token.
        cos, sin: ``[T, D / 2]``, its rotation.
        chunks: spans of more than one token.
    """

    room: Workspace
    cache: KeyValueCache
    rows: Ints
    cos: Floats
    sin: Floats
    decoding: _Decoding | None
    chunks: list[Span]


class LeanStep:
    """Computes the steps of one model.

    Args:
        model: a causal language model of transformers for which ``choice.why_general`` knows no reason.
        experts_class: of its experts modules.
        windows: of each layer, see ``layers.Attention``.
        experts: answers every MoE layer. What it is given is overwritten after it has answered.

    Attributes:
        experts: of these; may be exchanged between steps.
    """

    def __init__(
        self, model: Any, experts_class: type[nn.Module], windows: Mapping[int, int], experts: ExpertsClient
    ) -> None:
        self._layers = take_layers(model, experts_class, windows)
        self._windows = set(windows.values())
        self.experts = experts
        self._embeddings: Tensor = model.get_input_embeddings().weight.detach()
        self._last_norm = as_array(model.model.norm.weight)
        self._epsilon = np.float32(model.model.norm.variance_epsilon)
        self._head = model.get_output_embeddings()
        self._rotary = model.model.rotary_emb
        self._workspaces = Workspaces(_widths(model, self._layers), model.dtype)

    @torch.inference_mode()
    def logits(self, packed: PackedTokens, cache: KeyValueCache) -> Tensor:
        """Of the tokens ``packed.last``, ``[sampled, vocabulary]``."""
        step = self._begin(packed, cache)
        room = step.room
        torch.index_select(self._embeddings, 0, torch.tensor(packed.ids), out=room.hidden.tensor)
        for number, layer in enumerate(self._layers):
            kernels.norm(room.hidden.array, layer.attention_norm, self._epsilon, room.normed.array)
            self._attend(step, number, layer.attention)
            kernels.norm(room.hidden.array, layer.feed_forward_norm, self._epsilon, room.normed.array)
            self._feed_forward(room, layer)
        return self._project(room, packed.last)

    def _begin(self, packed: PackedTokens, cache: KeyValueCache) -> _Step:
        angles = torch.tensor(packed.positions, dtype=torch.float32)[:, None] * self._rotary.inv_freq.float()
        scaling = self._rotary.attention_scaling
        decoding = [span for span in packed.spans if span.count == 1]
        return _Step(
            room=self._workspaces.of(len(packed.ids)),
            cache=cache,
            rows=np.array(packed.rows, dtype=np.int64),
            cos=(angles.cos() * scaling).numpy(),
            sin=(angles.sin() * scaling).numpy(),
            decoding=self._decoding(decoding) if decoding else None,
            chunks=[span for span in packed.spans if span.count > 1],
        )

    def _decoding(self, spans: list[Span]) -> _Decoding:
        lengths = np.array([span.length for span in spans], dtype=np.int64)
        tables = [span.blocks for span in spans]
        return _Decoding(
            tokens=np.array([span.begin for span in spans], dtype=np.int64),
            tables=stack_tables(tables, lengths.tolist()),
            block=tables[0].block,
            lengths=lengths,
            firsts={window: np.maximum(0, lengths - window) if window else 0 * lengths for window in self._windows},
        )

    def _attend(self, step: _Step, number: int, attention: Attention) -> None:
        """Add a layer's attention to the residual stream."""
        room, keys, values = step.room, step.cache.keys[number], step.cache.values[number]
        _multiply(room.normed.tensor, attention.packed, attention.packed_bias, room.packed.tensor)
        cached = step.cache.arrays[number]
        kernels.place(
            room.packed.array, attention.norm_kind, attention.norm_weight, attention.norm_epsilon, step.cos, step.sin,
            step.rows, room.query.array, *cached,
        )  # fmt: skip
        if step.decoding is not None:
            _attend_decoding(step.decoding, attention, room, *cached)
        for span in step.chunks:
            mine = slice(span.begin, span.begin + span.count)
            query = room.query.tensor[mine].transpose(0, 1)
            room.attended.tensor[mine] = attend_span(
                span, query, keys, values, float(attention.scaling), attention.window or None
            )
        room.hidden.tensor.addmm_(room.attended.tensor.flatten(1), attention.output)
        if attention.output_bias is not None:
            room.hidden.tensor.add_(attention.output_bias)

    def _feed_forward(self, room: Workspace, layer: Layer) -> None:
        """Add what a layer's experts, or its dense network, make of the normed rows to the residual stream."""
        rows = room.normed.tensor
        if layer.gate is None:
            added = None if layer.beside is None else layer.beside(rows)
        else:
            self._choose(room, layer.gate)
            pending = self.experts.submit(layer.gate.layer, rows, room.ids.tensor, room.weights.tensor)
            try:
                added = None if layer.beside is None else layer.beside(rows)  # while the shards compute
            finally:
                sums = pending.collect()
            added = sums if added is None else sums + added
        if added is not None:
            room.hidden.tensor.add_(added)

    def _choose(self, room: Workspace, gate: Gate) -> None:
        torch.mm(room.normed.tensor, gate.weight, out=room.gate.tensor)
        kernels.choose(room.gate.array, gate.renormalise, room.ids.array, room.weights.array)

    def _project(self, room: Workspace, last: list[int]) -> Tensor:
        hidden = room.hidden.tensor[torch.tensor(last, dtype=torch.int64)]
        kernels.norm(as_array(hidden), self._last_norm, self._epsilon, as_array(hidden))
        logits: Tensor = self._head(hidden)
        return logits


def _attend_decoding(decoding: _Decoding, attention: Attention, room: Workspace, keys: Rows, values: Rows) -> None:
    kernels.attend(
        room.query.array, decoding.tokens, decoding.tables, decoding.block, decoding.firsts[attention.window],
        decoding.lengths, attention.scaling, keys, values, room.attended.array,
    )  # fmt: skip


def _multiply(rows: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(rows, matrix, out=out)
    else:
        torch.addmm(bias, rows, matrix, out=out)


def _widths(model: Any, layers: list[Layer]) -> Widths:
    attention = model.model.layers[0].self_attn
    gate = next(layer.gate for layer in layers if layer.gate is not None)
    return Widths(
        hidden=model.get_input_embeddings().weight.shape[1],
        heads=attention.q_proj.weight.shape[0] // attention.head_dim,
        kv_heads=attention.k_proj.weight.shape[0] // attention.head_dim,
        head_dim=attention.head_dim,
        experts=gate.weight.shape[1],
        top_k=gate.top_k,
    )
