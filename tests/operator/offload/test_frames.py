"""What goes through the pipes between the two processes comes out as it went in."""

import pickle
from typing import Any

import numpy as np
import pytest

from moe_operator.offload.frames import HEAD, packed, unpacked


def through(content: Any) -> Any:
    head, body, view = packed(content)
    assert HEAD.unpack(head) == (len(body), len(view))
    return unpacked(bytes(body), bytearray(view))


@pytest.mark.parametrize("large", [b"", b"statistics" * 1000])
def test_arrays_beside_what_is_too_large_to_be_copied(large: bytes) -> None:
    """Of a job's arguments and of its result: NumPy offers the memory of each array to whoever asks."""
    arrays = (np.arange(96.0).reshape(6, 16), np.zeros((0, 3)), np.arange(5))
    wrapped, *rest = through((pickle.PickleBuffer(bytearray(large)), *arrays))
    assert bytes(wrapped) == large
    for before, after in zip(arrays, rest, strict=True):
        np.testing.assert_array_equal(before, after)
        after += 1  # nobody else's memory


def test_arrays_alone() -> None:
    result = through(("done", [np.ones((6, 16)), np.arange(3)]))
    np.testing.assert_array_equal(result[1][0], np.ones((6, 16)))
    np.testing.assert_array_equal(result[1][1], np.arange(3))
