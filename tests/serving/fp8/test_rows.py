"""Rows as e4m3 with a scale each: how exact they are, and what becomes of rows that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from moe_serving.fp8 import rows as module
from moe_serving.fp8.rows import E4M3, PackedRows, pack, why_not

CPU = torch.device("cpu")
LARGEST = float(np.finfo(np.float32).max)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
anything = finite | st.sampled_from([np.inf, -np.inf, np.nan, 0.0, LARGEST, -LARGEST, 1e-45])
shapes = st.tuples(st.integers(0, 4), st.integers(1, 9))


def unpacked(packed: PackedRows) -> torch.Tensor:
    return packed.unpacked(torch.float32)


@given(arrays.arrays(np.float32, shapes, elements=anything))
def test_each_number_keeps_four_digits_or_a_part_of_its_rows_largest(values: np.ndarray) -> None:
    found = unpacked(pack(torch.from_numpy(values))).double().numpy()
    right = np.isfinite(values)
    assert np.isnan(found[~right]).all(), "what is no number stays none"
    wide = np.where(right, values, 0).astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    # Half a digit of e4m3, half of its least number, and float32's own rounding, of the least numbers as well.
    allowed = np.abs(wide) * (2**-4 + 1e-6) + largest / 448 * 2**-10 * 1.001 + 2.0**-126
    assert (np.abs(np.where(right, found, 0) - wide)[right] <= allowed[right]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_keep_their_dtype_and_bytes_are_a_quarter_of_float32(dtype: torch.dtype) -> None:
    values = torch.randn(5, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed = pack(values)
    again = packed.unpacked(dtype)
    assert (again.dtype, packed.values.dtype, packed.scales.dtype) == (dtype, E4M3, torch.float32)
    torch.testing.assert_close(again, values, rtol=0.07, atol=1e-4)
    assert not torch.equal(again, values)
    assert packed.values.nbytes + packed.scales.nbytes == 5 * (256 + 4)


def test_rows_of_zeros_are_zeros() -> None:
    assert torch.equal(unpacked(pack(torch.zeros(2, 7))), torch.zeros(2, 7))


def test_a_row_knows_nothing_of_the_others() -> None:
    values = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    values[1] = torch.nan
    packed = pack(values)
    for row in (0, 2):
        alone = pack(values[row : row + 1])
        assert torch.equal(alone.values.view(torch.uint8)[0], packed.values.view(torch.uint8)[row])
        assert torch.equal(alone.scales[0], packed.scales[row])
    taken = packed.take(np.array([2, 0]))
    assert torch.equal(unpacked(taken), unpacked(packed)[[2, 0]])


def test_a_device_without_e4m3_says_so() -> None:
    assert why_not(CPU) is None
    assert (why_not(torch.device("meta")) or "").startswith("device meta has no e4m3: ")


def test_a_device_that_rounds_otherwise_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = PackedRows(torch.tensor([[1.0, -448.0, 0.28125]]).to(E4M3), torch.ones(1))
    monkeypatch.setattr(module, "pack", lambda _: wrong)
    assert why_not(CPU) == "device cpu rounds e4m3 wrongly: (1.0, -448.0, 0.3) becomes (1.0, -448.0, 0.28125)"
