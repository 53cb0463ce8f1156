"""Rows as e4m3 with a scale each: a sign, four bits of exponent and three of mantissa, times a float32.

A row's largest number becomes the largest that e4m3 has, so that every number of it keeps four binary digits, down to a
hundred-thousandth of the largest; what is smaller is rounded to multiples of that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

E4M3 = torch.float8_e4m3fn
_LARGEST = 448.0
_FLOAT32 = torch.finfo(torch.float32)
_SCALES = _FLOAT32.tiny, _FLOAT32.max / 449.0
"""Least and largest: neither divides by zero, nor makes infinity of a row that has none."""
_TRIED, _FOUND = (1.0, -_LARGEST, 0.3), (1.0, -_LARGEST, 0.3125)


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Attributes:
    values: e4m3 ``[n, H]``.
    scales: float32 ``[n]``.
    """

    values: Tensor
    scales: Tensor

    def take(self, rows: NDArray[np.intp]) -> PackedRows:
        """Those of these numbers; on the CPU."""
        chosen = torch.from_numpy(rows)
        return PackedRows(self.values.view(torch.uint8)[chosen].view(E4M3), self.scales[chosen])

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """``[n, H]`` in a dtype to compute with."""
        return self.values.float().mul_(self.scales.unsqueeze(1)).to(dtype)


def pack(rows: Tensor) -> PackedRows:
    """Of ``rows`` ``[n, H]``. What is infinite or no number becomes NaN, and the rest of its row is as it would be with
    zeros in their places.
    """
    wide = rows.float()
    largest = wide.abs().amax(dim=1)
    if not bool(largest.isfinite().all()):
        finite = wide.isfinite()
        largest = wide.where(finite, 0.0).abs().amax(dim=1)
        wide = wide.where(finite, torch.nan)
    scales = (largest / _LARGEST).clamp_(*_SCALES)
    return PackedRows((wide / scales.unsqueeze(1)).to(E4M3), scales)


def why_not(device: torch.device) -> str | None:
    """Why a device cannot pack and unpack rows, in words; None where it can. It is tried: no list of devices is ever
    complete."""
    try:
        packed = pack(torch.tensor([_TRIED], device=device))
        found = tuple(packed.unpacked(torch.float32)[0].tolist())
    except Exception as error:  # noqa: BLE001 - torch raises whatever its backends do
        return f"device {device} has no e4m3: {str(error).splitlines()[0][:200]}"
    return None if found == _FOUND else f"device {device} rounds e4m3 wrongly: {_TRIED} becomes {found}"
