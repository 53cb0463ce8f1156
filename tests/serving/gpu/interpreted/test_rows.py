"""Norms, rotary embeddings and the gate's choice against what they mean, written out in float64 with torch."""

import numpy as np
import pytest
import torch
from near import EPSILON, assert_near, assert_placed, drawn, normed

from moe_serving.engine.lean import kernels
from moe_serving.gpu import rows as gpu

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@dtypes
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("width", [1, 7, 64, 257])
def test_norm(dtype, tokens, width):
    rows, weight = drawn(tokens, width, dtype=dtype), drawn(width, dtype=dtype, seed=1)
    out = torch.empty_like(rows)
    gpu.norm(rows, weight, EPSILON, out)
    assert_near(out, normed(rows, weight))
    gpu.norm(rows, weight, np.float32(EPSILON), rows)
    assert torch.equal(rows, out), "in place"


@dtypes
@pytest.mark.parametrize("kind", [kernels.NO_NORM, kernels.NORM_OF_HEAD, kernels.NORM_OF_ROW])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 8), (3, 1, 16), (2, 2, 24), (1, 1, 64)])
def test_place(dtype, kind, heads, kv_heads, width):
    tokens, half = 3, width // 2
    packed = drawn(tokens, (heads + 2 * kv_heads) * width, dtype=dtype)
    weight = torch.ones((heads + kv_heads) * width) if kind == kernels.NO_NORM else drawn((heads + kv_heads) * width)
    angles = drawn(tokens, half, seed=2)
    cos, sin = angles.cos(), angles.sin()
    rows = torch.tensor([7, 0, 3])
    keys, values = torch.zeros(10, kv_heads, width, dtype=dtype), torch.zeros(10, kv_heads, width, dtype=dtype)
    query = torch.empty(tokens, heads, width, dtype=dtype)
    gpu.place(packed, kind, weight, EPSILON, cos, sin, rows, query, keys, values)
    assert_placed(packed, kind, weight, cos, sin, rows, query, keys, values)


@dtypes
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(4, 8, 2), (1, 64, 8), (2, 128, 8), (3, 5, 5), (3, 3, 1)])
def test_choose(dtype, renormalise, tokens, experts, top_k):
    logits = torch.stack([torch.randperm(experts, generator=torch.Generator().manual_seed(n)) for n in range(tokens)])
    logits = (logits * torch.linspace(0.25, 4.0, tokens)[:, None]).to(dtype)  # from flat to nearly certain
    ids, weights = torch.empty(tokens, top_k, dtype=torch.int64), torch.empty(tokens, top_k)
    gpu.choose(logits, renormalise, ids, weights)
    shares, wanted = logits.double().softmax(-1).topk(top_k)
    assert torch.equal(ids, wanted)
    assert_near(weights, shares / shares.sum(-1, keepdim=True) if renormalise else shares)


@dtypes
def test_of_equal_experts_the_first_are_chosen(dtype):
    """As a stable sort of torch has them, and as the kernel for CPUs does; zeros are equal whatever their sign."""
    logits = torch.randint(-3, 4, (6, 24), generator=torch.Generator().manual_seed(1)).to(dtype)
    logits[::2] = torch.where(logits[::2] == 0, torch.tensor(-0.0, dtype=dtype), logits[::2])
    logits[1, ::3] = -0.0
    ids, weights = torch.empty(6, 6, dtype=torch.int64), torch.empty(6, 6)
    gpu.choose(logits, True, ids, weights)
    assert torch.equal(ids, logits.sort(dim=-1, descending=True, stable=True).indices[:, :6])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what it is given
@dtypes
def test_what_is_not_finite_stays_so(dtype):
    """Or a damaged model would seem to answer."""
    for poison in (float("nan"), -float("nan"), float("inf")):
        rows = torch.tensor([[1.0, poison, 3.0], [1.0, 2.0, 3.0]], dtype=dtype)
        out = torch.empty_like(rows)
        gpu.norm(rows, torch.ones(3, dtype=dtype), EPSILON, out)
        assert not out[0].isfinite().all() and out[1].isfinite().all()
        ids, weights = torch.empty(2, 2, dtype=torch.int64), torch.empty(2, 2)
        gpu.choose(rows, True, ids, weights)
        assert sorted({*ids[0].tolist()} & {0, 1, 2}) == sorted(ids[0].tolist()) and not weights[0].isfinite().all()
        assert ids[1].tolist() == [2, 1] and weights[1].isfinite().all()
    lowest, weights = torch.full((1, 4), -float("inf"), dtype=dtype), torch.empty(1, 4)
    ids = torch.empty(1, 4, dtype=torch.int64)
    gpu.choose(lowest, False, ids, weights)
    assert ids.tolist() == [[0, 1, 2, 3]] and not weights.isfinite().any()
