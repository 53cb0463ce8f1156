"""What tests of kernels share: tensors drawn from a seed, and how far rounding may take a result."""

import torch

NEAR = {torch.float32: 3e-6, torch.bfloat16: 8e-3}
"""Relative to the largest."""

EPSILON = 1e-6


def drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(found, wanted):
    tolerance = NEAR[found.dtype] * float(wanted.abs().max())
    torch.testing.assert_close(found.double(), wanted.double(), rtol=0, atol=tolerance)


def normed(rows, weight):
    rows = rows.double()
    return rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + EPSILON) * weight.double()
