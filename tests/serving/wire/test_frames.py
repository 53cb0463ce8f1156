"""The frame codec: what goes in comes out, however the stream is cut; anything else is a ProtocolError."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_serving.wire.errors import ProtocolError, VersionMismatchError
from moe_serving.wire.frames import HEADER_SIZE, Frame, FrameDecoder, encode

LIMIT = 4096

frames = st.builds(
    Frame,
    kind=st.integers(0, 255),
    flags=st.integers(0, 2**16 - 1),
    tag=st.integers(0, 2**32 - 1),
    body=st.binary(max_size=200).map(memoryview),
)


def to_bytes(frame: Frame) -> bytes:
    return b"".join(encode(frame.kind, frame.body, flags=frame.flags, tag=frame.tag))


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


@given(st.lists(frames, max_size=5), st.lists(st.integers(0, 1200), max_size=12))
def test_frames_survive_any_split_of_the_stream(sent: list[Frame], cuts: list[int]) -> None:
    decoder = FrameDecoder(LIMIT)
    received = [frame for chunk in split(b"".join(map(to_bytes, sent)), cuts) for frame in decoder.feed(chunk)]
    assert received == sent


@given(st.lists(st.binary(max_size=100), max_size=4))
def test_parts_are_joined_but_not_copied(parts: list[bytes]) -> None:
    buffers = encode(7, *parts)
    assert all(buffer is part for buffer, part in zip(buffers[1:], parts, strict=True))
    (frame,) = FrameDecoder(LIMIT).feed(b"".join(buffers))
    assert frame.body == b"".join(parts)


def test_bodies_are_independent_of_later_frames() -> None:
    decoder = FrameDecoder(LIMIT)
    (first,) = decoder.feed(b"".join(encode(1, b"first")))
    decoder.feed(b"".join(encode(1, b"later")))
    assert first.body == b"first"


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_random_bytes_give_frames_or_a_protocol_error(data: bytes, cuts: list[int]) -> None:
    decoder = FrameDecoder(LIMIT)
    try:
        for chunk in split(data, cuts):
            decoder.feed(chunk)
    except ProtocolError:
        with pytest.raises(ProtocolError):
            decoder.feed(b"x")


@given(frames, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_frames_give_frames_or_a_protocol_error(frame: Frame, mutations: list[tuple[int, int]]) -> None:
    data = bytearray(to_bytes(frame))
    for position, value in mutations:
        data[position % len(data)] = value
    decoder = FrameDecoder(LIMIT)
    try:
        received = decoder.feed(data)
    except ProtocolError:
        return
    assert all(len(each.body) <= LIMIT for each in received)


def test_another_version_is_told_apart() -> None:
    data = bytearray(b"".join(encode(1, b"")))
    data[4] += 1
    with pytest.raises(VersionMismatchError, match="version 2"):
        FrameDecoder(LIMIT).feed(data)


def test_an_oversized_body_is_refused_before_any_memory_is_taken_for_it() -> None:
    header = encode(1, memoryview(bytes(1)))[0]
    claimed = bytes(header[:12]) + (1 << 29).to_bytes(4, "little")
    decoder = FrameDecoder(LIMIT)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="exceeds the connection's limit"):
            decoder.feed(claimed)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_without_a_body_is_complete_with_its_header() -> None:
    (frame,) = FrameDecoder(LIMIT).feed(b"".join(encode(3, tag=9)))
    assert (frame.kind, frame.tag, len(frame.body), HEADER_SIZE) == (3, 9, 0, 16)
