"""Tensors as a frame's body: exact round trips without copies, and no input that does worse than ProtocolError."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.tensors import STORAGE, DType, WireTensor, decode_message, encode_message
from moe_serving.wire.torch_tensors import to_torch, to_wire

wire_tensors = st.sampled_from(DType).flatmap(
    lambda dtype: st.builds(
        WireTensor,
        dtype=st.just(dtype),
        array=hnp.arrays(STORAGE[dtype], hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)),
    )
)


def body(meta: bytes, tensors: list[WireTensor]) -> memoryview:
    return memoryview(bytearray(b"".join(encode_message(meta, tensors))))


@given(st.binary(max_size=50), st.lists(wire_tensors, max_size=4))
def test_round_trip(meta: bytes, tensors: list[WireTensor]) -> None:
    got_meta, got = decode_message(body(meta, tensors))
    assert got_meta == meta
    assert [t.dtype for t in got] == [t.dtype for t in tensors]
    for received, sent in zip(got, tensors, strict=True):
        assert received.array.shape == sent.array.shape
        assert received.array.tobytes() == sent.array.tobytes()


def test_arrays_are_views_of_the_body_at_aligned_offsets() -> None:
    sent = [WireTensor(DType.FLOAT32, np.arange(5, dtype=np.float32)), WireTensor(DType.INT64, np.arange(3))]
    received_body = body(b"abc", sent)
    start = np.frombuffer(received_body, dtype=np.uint8).ctypes.data
    for tensor in decode_message(received_body)[1]:
        assert not tensor.array.flags.owndata
        assert (tensor.array.ctypes.data - start) % 64 == 0


def test_contiguous_arrays_are_sent_without_a_copy() -> None:
    array = np.arange(1000, dtype=np.float32)
    last = memoryview(encode_message(b"", [WireTensor(DType.FLOAT32, array)])[-1])
    assert np.shares_memory(np.frombuffer(last, dtype=np.float32), array)


@given(
    st.binary(max_size=20),
    st.lists(wire_tensors, max_size=3),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=5),
    st.integers(0, 500),
)
def test_damaged_bodies_give_tensors_inside_the_body_or_a_protocol_error(
    meta: bytes, tensors: list[WireTensor], mutations: list[tuple[int, int]], keep: int
) -> None:
    damaged = bytearray(body(meta, tensors))
    for position, value in mutations:
        damaged[position % len(damaged)] = value
    damaged = damaged[:keep]
    try:
        _, received = decode_message(memoryview(damaged))
    except ProtocolError:
        return
    assert sum(t.array.nbytes for t in received) <= len(damaged)


@given(st.binary(max_size=300))
def test_random_bodies_give_tensors_or_a_protocol_error(data: bytes) -> None:
    try:
        decode_message(memoryview(data))
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.float8_e4m3fn]
)
def test_torch_tensors_travel_bit_for_bit(dtype: torch.dtype) -> None:
    tensor = torch.arange(-6, 6).reshape(3, 4) / 7 if dtype.is_floating_point else torch.arange(12)
    tensor = tensor.to(dtype)
    (received,) = decode_message(body(b"", [to_wire(tensor)]))[1]
    assert torch.equal(to_torch(received).view(torch.uint8), tensor.view(torch.uint8))
    assert to_torch(received).dtype == dtype


def test_types_that_do_not_travel_are_named() -> None:
    with pytest.raises(ProtocolError, match=r"torch\.complex64"):
        to_wire(torch.zeros(1, dtype=torch.complex64))
