"""The inner loops against what they mean, written out in float64 with torch."""

import numpy as np
import pytest
import torch
from near import EPSILON, assert_near, assert_placed, drawn, normed

from moe_serving.engine.lean import kernels
from moe_serving.engine.lean.workspace import as_array

DTYPES = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
"""And how far rounding may take a result, relative to the largest."""

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize("width", [1, 7, 64, 257])
def test_norm(dtype, width):
    rows, weight = drawn(5, width, dtype=dtype), drawn(width, dtype=dtype, seed=1)
    out = torch.empty_like(rows)
    kernels.norm(as_array(rows), as_array(weight), np.float32(EPSILON), as_array(out))
    assert_near(out, normed(rows, weight), DTYPES)


@dtypes
@pytest.mark.parametrize("kind", [kernels.NO_NORM, kernels.NORM_OF_HEAD, kernels.NORM_OF_ROW])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 8), (3, 1, 16), (2, 2, 24)])
def test_place(dtype, kind, heads, kv_heads, width):
    tokens, half = 6, width // 2
    packed = drawn(tokens, (heads + 2 * kv_heads) * width, dtype=dtype)
    weight = torch.ones((heads + kv_heads) * width) if kind == kernels.NO_NORM else drawn((heads + kv_heads) * width)
    angles = drawn(tokens, half, seed=2)
    cos, sin = angles.cos(), angles.sin()
    rows = torch.tensor([7, 0, 3, 9, 1, 4])
    keys, values = torch.zeros(10, kv_heads, width, dtype=dtype), torch.zeros(10, kv_heads, width, dtype=dtype)
    query = torch.empty(tokens, heads, width, dtype=dtype)
    kernels.place(
        as_array(packed), kind, as_array(weight), np.float32(EPSILON), as_array(cos), as_array(sin), as_array(rows),
        as_array(query), as_array(keys), as_array(values),
    )  # fmt: skip
    assert_placed(packed, kind, weight, cos, sin, rows, query, keys, values, DTYPES)


@dtypes
@pytest.mark.parametrize("block", [1, 4, 16, 1 << 62])
@pytest.mark.parametrize("window", [0, 1, 5, 200])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_attend(dtype, block, window, heads, kv_heads):
    lengths, width, tokens = [1, 37, 5, 130], 16, [5, 0, 2, 4]
    size = min(block, max(lengths))
    blocks = [-(-length // size) for length in lengths]
    order = torch.randperm(sum(blocks), generator=torch.Generator().manual_seed(3)).tolist()
    tables = np.zeros((len(lengths), max(blocks)), dtype=np.int64)
    rows_of = []
    for number, (length, count) in enumerate(zip(lengths, blocks, strict=True)):
        mine = [order.pop() * size for _ in range(count)]
        tables[number, :count] = mine
        rows_of.append([mine[position // size] + position % size for position in range(length)])
    keys = drawn(sum(blocks) * size, kv_heads, width, dtype=dtype)
    values = drawn(sum(blocks) * size, kv_heads, width, dtype=dtype, seed=1)
    query = drawn(6, heads, width, dtype=dtype, seed=2)
    out = torch.zeros_like(query)
    ends = np.array(lengths)
    kernels.attend(
        as_array(query), np.array(tokens), tables, block, np.maximum(0, ends - window) if window else 0 * ends, ends,
        np.float32(0.3), as_array(keys), as_array(values), as_array(out),
    )  # fmt: skip
    for token, rows in zip(tokens, rows_of, strict=True):
        seen = rows[-window:] if window else rows
        for head in range(heads):
            scores = keys[seen, head * kv_heads // heads].double() @ query[token, head].double() * 0.3
            assert_near(out[token, head], scores.softmax(0) @ values[seen, head * kv_heads // heads].double(), DTYPES)
    assert not out[[1, 3]].any(), "other tokens are not touched"


@dtypes
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (64, 8), (5, 5), (3, 1)])
def test_choose(dtype, renormalise, experts, top_k):
    logits = torch.stack([torch.randperm(experts, generator=torch.Generator().manual_seed(n)) for n in range(9)])
    logits = (logits * torch.linspace(0.25, 8.0, 9)[:, None]).to(dtype)  # from flat to nearly certain
    ids, weights = torch.empty(9, top_k, dtype=torch.int64), torch.empty(9, top_k)
    kernels.choose(as_array(logits), renormalise, as_array(ids), as_array(weights))
    shares, wanted = logits.double().softmax(-1).topk(top_k)
    assert torch.equal(ids, wanted)
    assert_near(weights, shares / shares.sum(-1, keepdim=True) if renormalise else shares, DTYPES)


@dtypes
def test_what_is_not_finite_stays_so(dtype):
    """Or a damaged model would seem to answer."""
    for poison in (float("nan"), float("inf")):
        rows = torch.tensor([[1.0, poison], [1.0, 2.0]], dtype=dtype)
        out = torch.empty_like(rows)
        kernels.norm(as_array(rows), as_array(torch.ones(2, dtype=dtype)), np.float32(EPSILON), as_array(out))
        assert not out[0].isfinite().all() and out[1].isfinite().all()
        ids, weights = torch.empty(2, 2, dtype=torch.int64), torch.empty(2, 2)
        kernels.choose(as_array(rows), True, as_array(ids), as_array(weights))
        assert sorted(ids[0].tolist()) == [0, 1] and not weights[0].isfinite().all()
        keys = rows.reshape(2, 1, 2).clone()
        kernels.attend(
            as_array(torch.ones(1, 1, 2, dtype=dtype)), np.array([0]), np.array([[0]]), 16, np.array([0]),
            np.array([2]), np.float32(1), as_array(keys), as_array(torch.ones_like(keys)),
            as_array(attended := torch.zeros(1, 1, 2, dtype=dtype)),
        )  # fmt: skip
        assert not attended.isfinite().all()


def test_bfloat16_is_rounded_as_torch_does():
    """To the nearest, and of two to the even one."""
    halves = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-12, 2.0**127 * 1.999, 1e-40, 0.0])
    weight = torch.cat([halves, drawn(25)])
    query = torch.empty(1, 1, 16, dtype=torch.bfloat16)
    keys, values = torch.empty(1, 1, 16, dtype=torch.bfloat16), torch.empty(1, 1, 16, dtype=torch.bfloat16)
    unturned = np.ones((1, 8), dtype=np.float32), np.zeros((1, 8), dtype=np.float32)
    kernels.place(
        as_array(torch.ones(1, 48, dtype=torch.bfloat16)), kernels.NO_NORM, as_array(weight), np.float32(EPSILON),
        *unturned, np.array([0]), as_array(query), as_array(keys), as_array(values),
    )  # fmt: skip
    assert torch.equal(torch.cat([query, keys], dim=1).flatten(), weight.bfloat16())
