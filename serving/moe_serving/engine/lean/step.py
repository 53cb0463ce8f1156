"""The lean step: for each layer two norms, three multiplications, and one kernel each for what lies between.

It computes what transformers' modules do, in the same order, for all tokens of a step at once: those that decode attend
in one call, however many they are; chunks of prompts one by one, by torch's own attention. Which device it is on shows
in ``table.Kernels`` alone. For the engine thread only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moe_serving.engine.attention import attend_span
from moe_serving.engine.block_allocator import BLOCK_TOKENS, stack_tables
from moe_serving.engine.cache import KeyValueCache
from moe_serving.engine.experts import ExpertsClient
from moe_serving.engine.lean.layers import Attention, Gate, Layer, take_layers
from moe_serving.engine.lean.table import Kernels
from moe_serving.engine.lean.workspace import KEPT_TOKENS, Home, Widths, Workspace, Workspaces
from moe_serving.engine.packing import PackedTokens, Span
from moe_serving.products import rearranges_right


@dataclass(frozen=True, slots=True)
class Inputs:
    """The numbers of a step on the model's device: all in which two steps of equal spans differ.

    Attributes:
        ids, rows: int64 ``[T]``, see ``PackedTokens``.
        positions: float32 ``[T]``.
        last: int64, whose logits are wanted.
        tokens, tables, block, lengths: of the tokens that are the last of their sequences, as ``kernels.attend`` takes
            them; empty where there are none.
    """

    ids: Tensor
    positions: Tensor
    rows: Tensor
    last: Tensor
    tokens: Tensor
    tables: Tensor
    block: int
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class _Decoding:
    """The tokens that are the last of their sequences, as ``kernels.attend`` takes them."""

    tokens: Any
    tables: Any
    block: int
    lengths: Any
    firsts: Mapping[int, Any]
    """By window."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What all layers of a step share; arrays are as kernels see them.

    Attributes:
        rows: of the cache, for each token.
        cos, sin: ``[T, D / 2]``, its rotation.
        chunks: spans of more than one token.
    """

    room: Workspace
    cache: KeyValueCache
    rows: Any
    cos: Any
    sin: Any
    decoding: _Decoding | None
    chunks: Sequence[Span]


class LeanStep:
    """Computes the steps of one model.

    Args:
        model: a causal language model of transformers for which ``choice.why_general`` knows no reason.
        experts_class: of its experts modules.
        windows: of each layer, see ``layers.Attention``.
        experts: answers every MoE layer. What it is given is overwritten after it has answered.
        kernels: of the model's device.

    Attributes:
        experts: of these; may be exchanged between steps.
    """

    def __init__(
        self,
        model: Any,
        experts_class: type[nn.Module],
        windows: Mapping[int, int],
        experts: ExpertsClient,
        kernels: Kernels,
    ) -> None:
        self._kernels = kernels
        self._device: torch.device = model.device
        self._layers = take_layers(model, experts_class, windows, kernels.seen)
        self._windows = set(windows.values())
        self.experts = experts
        self._embeddings: Tensor = model.get_input_embeddings().weight.detach()
        self._last_norm = kernels.seen(model.model.norm.weight.detach())
        self._epsilon = np.float32(model.model.norm.variance_epsilon)
        self._head = model.get_output_embeddings()
        self._rotary = model.model.rotary_emb
        self._workspaces = Workspaces(_widths(model, self._layers), Home(model.dtype, model.device, kernels.seen))

    def logits(self, packed: PackedTokens, cache: KeyValueCache) -> Tensor:
        """Of the tokens ``packed.last``, ``[sampled, vocabulary]``."""
        return self.compute(self.inputs(packed), [span for span in packed.spans if span.count > 1], cache)

    def inputs(self, packed: PackedTokens) -> Inputs:
        """What ``compute`` takes."""
        decoding = [span for span in packed.spans if span.count == 1]
        blocks, lengths = [span.blocks for span in decoding], [span.length for span in decoding]
        return Inputs(
            ids=self._here(packed.ids),
            positions=self._here(packed.positions, torch.float32),
            rows=self._here(packed.rows),
            last=self._here(packed.last),
            tokens=self._here([span.begin for span in decoding]),
            tables=self._here(stack_tables(blocks, lengths) if blocks else []),
            block=blocks[0].block if blocks else BLOCK_TOKENS,
            lengths=self._here(lengths),
        )

    @torch.inference_mode()
    def compute(self, inputs: Inputs, chunks: Sequence[Span], cache: KeyValueCache) -> Tensor:
        """Logits of the tokens ``inputs.last``, ``[sampled, vocabulary]``.

        Without chunks it does nothing but launch kernels, on ``inputs``, the cache and tensors of this object.
        """
        step = self._begin(inputs, chunks, cache)
        room = step.room
        torch.index_select(self._embeddings, 0, inputs.ids, out=room.hidden.tensor)
        for number, layer in enumerate(self._layers):
            self._norm(room, layer.attention_norm)
            self._attend(step, number, layer.attention)
            self._norm(room, layer.feed_forward_norm)
            self._feed_forward(room, layer)
        return self._project(room, inputs.last)

    def _begin(self, inputs: Inputs, chunks: Sequence[Span], cache: KeyValueCache) -> _Step:
        seen = self._kernels.seen
        angles = inputs.positions[:, None] * self._rotary.inv_freq.float()
        scaling = self._rotary.attention_scaling
        return _Step(
            room=self._workspaces.of(len(inputs.ids)),
            cache=cache,
            rows=seen(inputs.rows),
            cos=seen(angles.cos() * scaling),
            sin=seen(angles.sin() * scaling),
            decoding=self._decoding(inputs) if len(inputs.tokens) else None,
            chunks=chunks,
        )

    def _decoding(self, inputs: Inputs) -> _Decoding:
        seen, lengths = self._kernels.seen, inputs.lengths
        return _Decoding(
            tokens=seen(inputs.tokens),
            tables=seen(inputs.tables),
            block=inputs.block,
            lengths=seen(lengths),
            firsts={
                window: seen((lengths - window).clamp(min=0) if window else torch.zeros_like(lengths))
                for window in self._windows
            },
        )

    def _here(self, numbers: Any, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.as_tensor(numbers, dtype=dtype, device=self._device)

    def _norm(self, room: Workspace, weight: Any) -> None:
        self._kernels.norm(room.hidden.seen, weight, self._epsilon, room.normed.seen)

    def _attend(self, step: _Step, number: int, attention: Attention) -> None:
        """Add a layer's attention to the residual stream."""
        room, keys, values = step.room, step.cache.keys[number], step.cache.values[number]
        _multiply(room.normed.tensor, attention.packed, attention.packed_bias, room.packed.tensor)
        cached = step.cache.seen(self._kernels.seen)[number]
        self._kernels.place(
            room.packed.seen, attention.norm_kind, attention.norm_weight, attention.norm_epsilon, step.cos, step.sin,
            step.rows, room.query.seen, *cached,
        )  # fmt: skip
        if step.decoding is not None:
            self._attend_decoding(step.decoding, attention, room, *cached)
        for span in step.chunks:
            mine = slice(span.begin, span.begin + span.count)
            query = room.query.tensor[mine].transpose(0, 1)
            room.attended.tensor[mine] = attend_span(
                span, query, keys, values, float(attention.scaling), attention.window or None
            )
        _add_product(room.hidden.tensor, room.attended.tensor.flatten(1), attention.output)
        if attention.output_bias is not None:
            room.hidden.tensor.add_(attention.output_bias)

    def _attend_decoding(
        self, decoding: _Decoding, attention: Attention, room: Workspace, keys: Any, values: Any
    ) -> None:
        self._kernels.attend(
            room.query.seen, decoding.tokens, decoding.tables, decoding.block, decoding.firsts[attention.window],
            decoding.lengths, attention.scaling, keys, values, room.attended.seen,
        )  # fmt: skip

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
        _multiply(room.normed.tensor, gate.weight, None, room.gate.tensor)
        self._kernels.choose(room.gate.seen, gate.renormalise, room.ids.seen, room.weights.seen)

    def _project(self, room: Workspace, last: Tensor) -> Tensor:
        hidden = room.hidden.tensor[last]
        seen = self._kernels.seen(hidden)
        self._kernels.norm(seen, self._last_norm, self._epsilon, seen)
        if _is_turned(hidden) and self._head.bias is None:
            return _turned(hidden, self._head.weight.t()).contiguous()
        logits: Tensor = self._head(hidden)
        return logits


def _is_turned(rows: Tensor) -> bool:
    """Whether a product with weights is computed the other way round: the few rows of a step are less to rearrange than
    weights. One row is multiplied as it is, and of many the answer takes longer to turn back.
    """
    return 1 < len(rows) <= KEPT_TOKENS and rearranges_right(rows)


def _turned(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows`` times ``matrix``, a view of one that lies transposed; not contiguous."""
    return torch.mm(matrix.t(), rows.t()).t()


def _multiply(rows: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is not None:
        torch.addmm(bias, rows, matrix, out=out)
    elif _is_turned(rows):
        out.copy_(_turned(rows, matrix))
    else:
        torch.mm(rows, matrix, out=out)


def _add_product(sums: Tensor, rows: Tensor, matrix: Tensor) -> None:
    if _is_turned(rows):
        # In one operation, which rounds once: as it does with another number of rows.
        sums.copy_(torch.addmm(sums.t(), matrix.t(), rows.t()).t())
    else:
        sums.addmm_(rows, matrix)


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
