"""The frame: a fixed header and a body. Sans-IO: bytes in, frames out, no sockets here.

Header, 16 bytes, little-endian::

    magic "MOEW" | version u8 | kind u8 | flags u16 | tag u32 | body length u32

What a kind, a flag and a tag mean is said by the protocol above (``kinds``); a reply carries the tag of its request.
Used by every driver (``blocking``, ``aio``, the shard's selector loop) through ``channel``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from moe_contract.release import release
from moe_serving.wire.errors import ProtocolError, VersionMismatchError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"MOEW"
RELEASE = release() or "of a source tree"
"""Ours, for messages."""
VERSION = 2
"""Counted up where peers of two versions would misread each other; what is only added needs none."""
MAX_BODY = 1 << 30
"""Bytes of the largest body a frame may have; a connection usually allows less."""

_HEADER = struct.Struct("<4sBBHII")
HEADER_SIZE = _HEADER.size


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as received. ``body`` is a view of a buffer of its own: nothing else writes to it."""

    kind: int
    flags: int
    tag: int
    body: memoryview


def encode(kind: int, *parts: Buffer, flags: int = 0, tag: int = 0) -> list[Buffer]:
    """The buffers of one frame, whose body is ``parts`` one after the other; none is copied.

    Raises:
        ProtocolError: the body is larger than any peer may accept.
    """
    length = sum(memoryview(part).nbytes for part in parts)
    if length > MAX_BODY:
        raise ProtocolError(f"a body of {length} bytes exceeds the limit of {MAX_BODY}; send fewer rows at a time")
    return [_HEADER.pack(MAGIC, VERSION, kind, flags, tag, length), *parts]


class FrameDecoder:
    """Cuts a byte stream into frames, however it was split on its way.

    Drivers either ``feed`` it bytes or, to save copying, receive straight into ``space()`` and say ``filled(count)``.
    Memory is bounded by one body of ``max_body`` bytes. After a ``ProtocolError`` the stream has no meaning any more:
    every further call raises the same.
    """

    def __init__(self, max_body: int) -> None:
        self.max_body = max_body
        self._error: ProtocolError | None = None
        self._header: tuple[int, int, int] | None = None
        self._header_buffer = memoryview(bytearray(HEADER_SIZE))
        self._target = self._header_buffer
        self._position = 0

    def space(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._error is not None:
            raise self._error
        return self._target[self._position :]

    def filled(self, count: int) -> Frame | None:
        """``count`` bytes were written to the start of ``space()``; returns the frame that they completed, if any.

        Raises:
            ProtocolError: the bytes are no frame, or one of another version or larger than ``max_body``.
        """
        if self._error is not None:
            raise self._error
        self._position += count
        if self._position < len(self._target):
            return None
        if self._header is None:
            kind, flags, tag, length = self._read_header()
            self._header = (kind, flags, tag)
            # np.empty: unlike a bytearray its memory is not zeroed first; it is about to be overwritten.
            self._target = np.empty(length, dtype=np.uint8).data
            self._position = 0
            if length:
                return None
        frame = Frame(*self._header, body=self._target)
        self._header = None
        self._target = self._header_buffer
        self._position = 0
        return frame

    def feed(self, data: Buffer) -> list[Frame]:
        """Take any number of bytes; returns the frames that they completed.

        Raises:
            ProtocolError: as ``filled``; frames completed earlier in the same ``data`` are dropped with the connection.
        """
        return pour(self, data)

    def _read_header(self) -> tuple[int, int, int, int]:
        magic, version, kind, flags, tag, length = _HEADER.unpack(self._target)
        if magic != MAGIC:
            raise self._fail(f"expected a frame that begins with {MAGIC!r}, got {magic!r}: not this protocol")
        if version != VERSION:
            self._error = VersionMismatchError(
                f"the peer speaks version {version} of the protocol, this process (release {RELEASE}) version "
                f"{VERSION}: restart the one of the older release"
            )
            raise self._error
        if length > self.max_body:
            raise self._fail(f"frame of kind {kind} with {length} bytes exceeds the connection's limit {self.max_body}")
        return kind, flags, tag, length

    def _fail(self, message: str) -> ProtocolError:
        self._error = ProtocolError(message)
        return self._error


class Sink(Protocol):
    """Whatever takes bytes where it wants them: a ``FrameDecoder`` or a ``Channel``."""

    def space(self) -> memoryview: ...

    def filled(self, count: int) -> Frame | None: ...


def pour(sink: Sink, data: Buffer) -> list[Frame]:
    """Copy all of ``data`` into ``sink``; returns the frames that came out."""
    frames = []
    rest = memoryview(data).cast("B")
    while len(rest):
        space = sink.space()
        count = min(len(space), len(rest))
        space[:count] = rest[:count]
        rest = rest[count:]
        frame = sink.filled(count)
        if frame is not None:
            frames.append(frame)
    return frames
