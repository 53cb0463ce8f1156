"""torch tensors to wire tensors and back: the only module of this package that imports torch."""

from __future__ import annotations

import torch

from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.tensors import DType, WireTensor

_TO_WIRE = {
    torch.float32: DType.FLOAT32,
    torch.float16: DType.FLOAT16,
    torch.bfloat16: DType.BFLOAT16,
    torch.int32: DType.INT32,
    torch.int64: DType.INT64,
    torch.float8_e4m3fn: DType.FLOAT8_E4M3,
}
_NOT_IN_NUMPY = {
    DType.BFLOAT16: (torch.bfloat16, torch.uint16),
    DType.FLOAT8_E4M3: (torch.float8_e4m3fn, torch.uint8),
}
"""What they are in torch, and how their bytes are seen."""


def to_wire(tensor: torch.Tensor) -> WireTensor:
    """A wire tensor over the same memory; a tensor on another device is brought to the CPU first."""
    dtype = _TO_WIRE.get(tensor.dtype)
    if dtype is None:
        raise ProtocolError(f"tensors of {tensor.dtype} do not travel; use one of {[str(t) for t in _TO_WIRE]}")
    if tensor.requires_grad or not tensor.is_cpu:
        tensor = tensor.detach().cpu()
    if dtype in _NOT_IN_NUMPY:
        tensor = tensor.view(_NOT_IN_NUMPY[dtype][1])
    return WireTensor(dtype, tensor.numpy())


def to_torch(tensor: WireTensor, device: torch.device | None = None) -> torch.Tensor:
    """A torch tensor over the same memory, or one on ``device`` with the same values, where that is not the CPU."""
    result = torch.from_numpy(tensor.array)
    if tensor.dtype in _NOT_IN_NUMPY:
        result = result.view(_NOT_IN_NUMPY[tensor.dtype][0])
    return result if device is None or device.type == "cpu" else result.to(device)
