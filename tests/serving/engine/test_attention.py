"""Packed attention against the definition: softmax over what each token may see, written out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from moe_serving.engine.attention import PackedStep, packed_attention
from moe_serving.engine.block_allocator import BlockTable
from moe_serving.engine.cache import CacheShape, KeyValueCache
from moe_serving.engine.packing import Span

HEAD_DIM = 8

STEPS = {
    "decoding": [(1, 5), (1, 1), (1, 20)],
    "prompts": [(6, 6), (1, 1), (13, 13)],
    "chunks beside decoding": [(1, 9), (4, 11), (1, 3), (7, 8)],
}
"""Per sequence: tokens in the step, tokens so far."""


def by_definition(query, keys, values, count, length, window, scaling):
    """``query`` [heads, count, D], ``keys`` [kv_heads, length, D], one token and head at a time, in float64."""
    group = query.shape[0] // keys.shape[0]
    out = torch.empty(count, query.shape[0], HEAD_DIM, dtype=torch.float64)
    for head in range(query.shape[0]):
        for token in range(count):
            position = length - count + token
            seen = slice(0 if window is None else max(0, position - window + 1), position + 1)
            scores = keys[head // group, seen].double() @ query[head, token].double() * scaling
            out[token, head] = scores.softmax(0) @ values[head // group, seen].double()
    return out


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("window", [None, 1, 4, 50])
@pytest.mark.parametrize("scattered", [False, True], ids=["side by side", "scattered"])
def test_each_token_sees_its_own_past(step, heads, kv_heads, window, scattered):
    generator = torch.Generator().manual_seed(0)
    cache = KeyValueCache(CacheShape(2, kv_heads, HEAD_DIM), 64, torch.float32, torch.device("cpu"))
    for tensor in cache.keys + cache.values:
        tensor.normal_(generator=generator)
    blocks = np.arange(0, 64, 4)
    blocks = np.random.default_rng(1).permutation(blocks) if scattered else blocks
    spans, begin = [], 0
    for count, length in step:
        mine, blocks = np.split(blocks, [-(-length // 4)])
        spans.append(Span(begin, count, BlockTable(mine, 4, length), length))
        begin += count
    assert scattered == any(not span.blocks.contiguous for span in spans)
    query = torch.randn(1, heads, begin, HEAD_DIM, generator=generator)
    module = SimpleNamespace(layer_idx=1)

    out, _ = packed_attention(
        module, query, None, None, None, 0.3, packed=PackedStep(cache, spans), sliding_window=window
    )

    assert out.shape == (1, begin, heads, HEAD_DIM)
    for span in spans:
        rows = [int(span.blocks.starts[place // 4]) + place % 4 for place in range(span.length)]
        wanted = by_definition(
            query[0, :, span.begin : span.begin + span.count],
            cache.keys[1][rows].transpose(0, 1),
            cache.values[1][rows].transpose(0, 1),
            span.count,
            span.length,
            window,
            0.3,
        )
        torch.testing.assert_close(out[0, span.begin : span.begin + span.count].double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_window_may_be_the_modules_own():
    cache = KeyValueCache(CacheShape(1, 1, HEAD_DIM), 8, torch.float32, torch.device("cpu"))
    for tensor in cache.keys + cache.values:
        tensor.normal_(generator=torch.Generator().manual_seed(0))
    step = PackedStep(cache, [Span(0, 1, BlockTable(np.array([0]), 8, 8), 8)])
    query = torch.ones(1, 1, 1, HEAD_DIM)

    def attend(module, **kwargs):
        return packed_attention(module, query, None, None, None, 1.0, packed=step, **kwargs)[0]

    by_attribute = attend(SimpleNamespace(layer_idx=0, sliding_window=1))
    torch.testing.assert_close(by_attribute[0, 0], cache.values[0][7])
    assert torch.equal(by_attribute, attend(SimpleNamespace(layer_idx=0), sliding_window=1))
    assert not torch.equal(by_attribute, attend(SimpleNamespace(layer_idx=0), sliding_window=0))


def test_the_cache_files_rows_and_keeps_them_when_resized():
    cache = KeyValueCache(CacheShape(2, 3, 4), 6, torch.float32, torch.device("cpu"))
    keys, values = torch.randn(1, 3, 2, 4), torch.randn(1, 3, 2, 4)
    cache.begin_step(torch.tensor([5, 1]))
    assert cache.update(keys, values, 1) == (keys, values)
    cache.fit(9)
    assert cache.rows == 9
    assert torch.equal(cache.keys[1][[5, 1]].transpose(0, 1), keys[0])
    assert torch.equal(cache.values[1][[5, 1]].transpose(0, 1), values[0])
    cache.fit(2)
    assert torch.equal(cache.keys[1][1], keys[0, :, 1])
    assert len(cache.keys) == len(cache.values) == 2 and cache.rows == 2
