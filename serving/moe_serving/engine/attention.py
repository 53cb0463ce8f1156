"""Attention over a packed step: every sequence attends to its own rows of the cache and to nothing else.

Registered with transformers under ``PACKED_ATTENTION``. There is no mask function of that name, so transformers makes
no mask, and this function alone decides who sees whom. Called by attention modules after ``KeyValueCache.update``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from moe_serving.checkpoint import ModelError
from moe_serving.engine.block_allocator import Ints
from moe_serving.engine.cache import KeyValueCache
from moe_serving.engine.packing import Span

PACKED_ATTENTION = "moe_serving_packed"

_WITHOUT_EFFECT = ("sliding_window", "dropout", "position_ids", "use_cache", "output_router_logits")
"""Keywords of transformers' attention that this one heeds, or that change nothing of it. Any other (sinks, soft caps,
a bias) would be left out, and tokens be wrong."""


@dataclass(frozen=True, slots=True)
class PackedStep:
    """Travels through the model's forward to every attention module as keyword ``packed``.

    Attributes:
        windows: filled in on the way, of each layer how many tokens one sees, itself included; 0 for all.
    """

    cache: KeyValueCache
    spans: Sequence[Span]
    windows: dict[int, int] = field(default_factory=dict)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    *,
    packed: PackedStep,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """``query`` ``[1, heads, T, head_dim]`` → ``[1, T, heads, head_dim]``; keys and values come from the cache.

    A family says by argument or by attribute of its module whether a layer's attention reaches back only
    ``sliding_window`` tokens (0 or None: all the way).

    Raises:
        ModelError: UnsupportedArchitecture, the family asks for something that this function would leave out.
    """
    _check_arguments(module, attention_mask, kwargs)
    window = kwargs.get("sliding_window", getattr(module, "sliding_window", None)) or None
    layer: Any = module.layer_idx
    packed.windows[layer] = window or 0
    keys, values = packed.cache.keys[layer], packed.cache.values[layer]
    heads, _, head_dim = query.shape[1:]
    out = query.new_empty(query.shape[2], heads, head_dim)
    for span in packed.spans:
        mine = slice(span.begin, span.begin + span.count)
        out[mine] = attend_span(span, query[0, :, mine], keys, values, scaling, window)
    return out.unsqueeze(0), None


def attend_span(span: Span, query: Tensor, keys: Tensor, values: Tensor, scaling: float, window: int | None) -> Tensor:
    """The tokens of one sequence, ``query`` ``[heads, n, D]``, see what is before them → ``[n, heads, D]``.

    Args:
        keys, values: ``[rows, kv_heads, D]``, the layer's cache.
        window: how many tokens one sees, itself included; None for all.
    """
    first = 0 if window is None else max(0, span.length - span.count - window + 1)
    rows = span.blocks.rows(first, span.length)
    attend = _attend_one if span.count == 1 else _attend_chunk
    return attend(query, _rows_of(keys, rows), _rows_of(values, rows), scaling, window)


def _rows_of(cached: Tensor, rows: range | Ints) -> Tensor:
    """``[rows, heads, D]`` → ``[heads, n, D]``: a view where they lie side by side, else a copy."""
    if isinstance(rows, range):
        return cached[rows.start : rows.stop].transpose(0, 1)
    return cached.index_select(0, torch.from_numpy(rows).to(cached.device)).transpose(0, 1)


def _check_arguments(module: nn.Module, attention_mask: Tensor | None, arguments: dict[str, Any]) -> None:
    unknown = sorted(name for name, value in arguments.items() if name not in _WITHOUT_EFFECT and value is not None)
    if attention_mask is not None:
        unknown.append("attention_mask")
    if arguments.get("dropout"):
        unknown.append("dropout")
    if unknown:
        raise ModelError(
            "UnsupportedArchitecture",
            f"{type(module).__name__} of transformers asks its attention for {', '.join(unknown)}, which is not "
            "supported",
        )


def _attend_one(query: Tensor, keys: Tensor, values: Tensor, scaling: float, window: int | None) -> Tensor:
    """One token, ``query`` ``[heads, 1, D]``, sees all of ``keys`` ``[kv_heads, L, D]`` → ``[1, heads, D]``.

    The query heads that share a key head become its query rows: nothing has to be repeated.
    """
    grouped = query.reshape(1, keys.shape[0], -1, query.shape[-1])
    out = scaled_dot_product_attention(grouped, keys.unsqueeze(0), values.unsqueeze(0), scale=scaling)
    return out.reshape(1, query.shape[0], -1)


def _attend_chunk(query: Tensor, keys: Tensor, values: Tensor, scaling: float, window: int | None) -> Tensor:
    """The last ``n`` tokens of ``L``, ``query`` ``[heads, n, D]``, each sees what is before it → ``[n, heads, D]``."""
    count, length = query.shape[1], keys.shape[1]
    whole = count == length and (window is None or length <= window)
    out = scaled_dot_product_attention(
        query.unsqueeze(0),
        keys.unsqueeze(0),
        values.unsqueeze(0),
        attn_mask=None if whole else _causal_mask(count, length, window, query.device),
        is_causal=whole,
        scale=scaling,
        enable_gqa=query.shape[0] != keys.shape[0],
    )
    return out[0].transpose(0, 1)


def _causal_mask(count: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """bool ``[count, length]``: the last ``count`` of ``length`` tokens see themselves and what is before, in reach."""
    visible = torch.ones(count, length, dtype=torch.bool, device=device).tril(length - count)
    return visible if window is None else visible.triu(length - count - window + 1)


def exclude_prepared_kernels() -> None:
    """Keep torch from attention kernels that are prepared anew for each key length, for all of the process: cuDNN's,
    which it prefers for 16 bits, take 42 ms for every length not seen before, and each step brings new ones.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
