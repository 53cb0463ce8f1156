"""What tests of kernels share: tensors drawn from a seed, and how far rounding may take a result."""

import torch

from moe_serving.engine.lean import kernels

NEAR = {torch.float32: 3e-6, torch.bfloat16: 8e-3}
"""How far kernels of GPUs may be off, relative to the largest."""

EPSILON = 1e-6


def drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(found, wanted, near=NEAR):
    tolerance = near[found.dtype] * float(wanted.abs().max())
    torch.testing.assert_close(found.double(), wanted.double(), rtol=0, atol=tolerance)


def normed(rows, weight):
    rows = rows.double()
    return rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + EPSILON) * weight.double()


def assert_placed(packed, kind, weight, cos, sin, rows, query, keys, values, near=NEAR):
    """``packed`` queries, keys and values, normed as ``kind`` says and rotated, are in ``query``, and in ``rows`` of
    the cache: in no other one."""
    tokens, heads, width = query.shape
    kv_heads, half = keys.shape[1], width // 2

    def rotated(part, weights, own_heads):
        if kind == kernels.NORM_OF_ROW:
            part = normed(part, weights)
        elif kind == kernels.NORM_OF_HEAD:
            part = normed(part.reshape(tokens, own_heads, width), weights.reshape(own_heads, width)).flatten(1)
        first, second = part.double().reshape(tokens, own_heads, 2, half).unbind(2)
        c, s = cos.double()[:, None], sin.double()[:, None]
        return torch.cat([first * c - second * s, second * c + first * s], dim=-1)

    q, k, v = packed.split([heads * width, kv_heads * width, kv_heads * width], dim=1)
    assert_near(query, rotated(q, weight[: heads * width], heads), near)
    assert_near(keys[rows], rotated(k, weight[heads * width :], kv_heads), near)
    assert torch.equal(values[rows], v.reshape(tokens, kv_heads, width))
    others = [row for row in range(len(keys)) if row not in rows.tolist()]
    assert not keys[others].any() and not values[others].any(), "rows of others stay as they are"
