"""Which device a process computes on."""

from __future__ import annotations

import torch

from moe_contract.applications import Device


def resolve_device(device: Device, number: int = 0) -> torch.device:
    """``auto`` is CUDA where there is one, and the CPU elsewhere.

    Args:
        number: of the process among its like. Ray shows all GPUs of a node to an actor that asked for none: such
            processes take one each, in turn. One that asked sees its own only.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", number % max(1, torch.cuda.device_count()))
