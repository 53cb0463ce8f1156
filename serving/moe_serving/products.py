"""What is known of how torch multiplies matrices."""

import torch
from torch import Tensor


def rearranges_right(rows: Tensor) -> bool:
    """Whether a product of such rows has its right factor rearranged first, at each call: oneDNN does in bfloat16."""
    return rows.dtype == torch.bfloat16 and rows.device.type == "cpu"
