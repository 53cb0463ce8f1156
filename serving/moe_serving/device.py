"""What ``device: auto`` means."""

from __future__ import annotations

import torch

from moe_placement.wire.applications import Device


def resolve_device(device: Device) -> torch.device:
    """``auto`` is CUDA where there is one, and the CPU elsewhere."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
