"""What one shard asks of another: an expert, piece by piece, as messages of tensors.

``FETCH`` names layer, expert and the first element wanted; ``PIECE`` is answered with that one and those behind it, as
the expert is held: first ``gate_up``, then ``down``, row by row, never of both. Who asks paces the transfer, and who
answers keeps nothing of it: each piece is small enough that a request of attention's never waits long behind it. It
repeats what was asked for, so that it is never taken for a piece of another expert, and says the form and the digest of
the whole, so that one who was answered from two different copies knows.

``DOUBT`` names layer and expert: what came did not fit its digest. Whoever holds it looks at it again; ``DOUBT``
without anything is the answer.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from moe_serving.checkpoint.digest import BLOCK_BYTES, DIGEST_BYTES
from moe_serving.checkpoint.landing import Landing, Matrix, as_bytes
from moe_serving.checkpoint.reader import ExpertForm, ExpertWeights
from moe_serving.experts.description import ExpertKey
from moe_serving.experts.errors import NotHeldError
from moe_serving.experts.pool import ExpertPool
from moe_serving.faults import FaultPoint, reached
from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.kinds import ExpertKind
from moe_serving.wire.transport import Message

PIECE_BYTES = 2 * BLOCK_BYTES
"""Of one piece at most: 512 KB are copied and sent within a fraction of a millisecond, and 4 ms of a link of 1 Gb/s. Of
smaller ones Python costs more than the bytes."""
MAX_PIECE_BODY = PIECE_BYTES + 4096
"""Of its frame."""
NOT_HELD = 1
"""Flag of an answer: this shard does not hold the expert."""

_FETCH = struct.Struct("<IIQ")
_DOUBT = struct.Struct("<II")
_PIECE = struct.Struct(f"<IIQII{DIGEST_BYTES}s")


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """For the elements from number ``begin`` on of one expert."""

    layer: int
    expert: int
    begin: int

    @property
    def place(self) -> tuple[int, int, int]:
        return self.layer, self.expert, self.begin

    def to_message(self) -> Message:
        return Message(ExpertKind.FETCH, _FETCH.pack(*self.place), ())

    @classmethod
    def from_message(cls, message: Message) -> FetchRequest:
        """
        Raises:
            ProtocolError: it is none.
        """
        if message.kind != ExpertKind.FETCH or len(message.meta) != _FETCH.size or message.tensors or message.flags:
            raise ProtocolError(f"expected a FETCH request, got kind {message.kind:#x}")
        return cls(*_FETCH.unpack(message.meta))


def doubt_of(layer: int, expert: int) -> Message:
    """Tells a peer that what it sent of an expert does not fit its digest."""
    return Message(ExpertKind.DOUBT, _DOUBT.pack(layer, expert), ())


def answer_doubt(doubt: Callable[[ExpertKey], None], message: Message) -> Message:
    """Has ``doubt`` look at the expert again.

    Raises:
        ProtocolError: the request makes no sense.
    """
    if message.kind != ExpertKind.DOUBT or len(message.meta) != _DOUBT.size or message.tensors or message.flags:
        raise ProtocolError(f"expected a DOUBT, got kind {message.kind:#x}")
    layer, expert = _DOUBT.unpack(message.meta)
    doubt((layer, expert))
    return Message(ExpertKind.DOUBT, b"", ())


def answer_fetch(pool: ExpertPool, message: Message) -> Message:
    """The piece asked for, copied, so that its slot may be freed and filled anew while the answer is on its way.

    Raises:
        ProtocolError: the request makes no sense.
    """
    request = FetchRequest.from_message(message)
    form = pool.form
    if request.begin >= form.elements:
        raise ProtocolError(f"element {request.begin} of an expert of {form.elements} is asked for")
    with pool.pinned(request.layer, [request.expert]) as slots:
        slot = slots.get(request.expert)
        if slot is None:
            return Message(ExpertKind.PIECE, b"", (), NOT_HELD)
        piece = cut_at(form, request.begin).of(slot.weights).to("cpu", copy=True)
        reached(FaultPoint.SHARD_SENDS)
        said = _PIECE.pack(*request.place, form.hidden, form.intermediate, slot.digest)
        return Message(ExpertKind.PIECE, said, (piece,))


class Incoming:
    """An expert that comes piece by piece.

    Args:
        weights: where it is to be.
        landing: of the thread that takes the pieces.
    """

    def __init__(self, form: ExpertForm, weights: ExpertWeights, landing: Landing) -> None:
        self._form = form
        self._matrices = Matrix(weights.gate_up), Matrix(weights.down)
        self._sums = form.checksums()
        self._landing = landing

    def take(self, message: Message, asked: FetchRequest) -> bytes:
        """Put the piece that was ``asked`` for in its place.

        Returns:
            The digest that the whole has.

        Raises:
            NotHeldError: the peer does not hold that expert, or not any more.
            ProtocolError: the answer does not fit.
        """
        piece, digest = read_piece(message, self._form, asked)
        cut, dtype = cut_at(self._form, asked.begin), self._form.dtype
        if piece.dtype != dtype or piece.shape != (cut.end - cut.begin,):
            raise ProtocolError(f"expected [{cut.end - cut.begin}] {dtype}, got {list(piece.shape)} {piece.dtype}")
        begin = cut.begin * dtype.itemsize

        def fill(target: memoryview) -> None:
            target[:] = as_bytes(piece)
            self._sums.add(cut.matrix, begin, target)

        self._landing.put(self._matrices[cut.matrix], begin, cut.end * dtype.itemsize, fill)
        return digest

    def digest(self) -> bytes:
        """Of what came, once that is all."""
        return self._sums.digest()


def read_piece(message: Message, form: ExpertForm, asked: FetchRequest) -> tuple[Tensor, bytes]:
    """The piece that was ``asked`` for, flat, and the digest that the whole has.

    Raises:
        NotHeldError: the peer does not hold that expert, or not any more.
        ProtocolError: the answer does not fit.
    """
    if message.kind != ExpertKind.PIECE:
        raise ProtocolError(f"expected a PIECE, got kind {message.kind:#x}")
    if message.flags == NOT_HELD:
        raise NotHeldError("the peer does not hold it")
    if message.flags or len(message.meta) != _PIECE.size or len(message.tensors) != 1:
        raise ProtocolError("a PIECE that is none")
    *repeated, hidden, intermediate, digest = _PIECE.unpack(message.meta)
    if tuple(repeated) != asked.place:
        raise ProtocolError(f"a piece of another expert: asked for {asked.place}, got {tuple(repeated)}")
    if (hidden, intermediate) != (form.hidden, form.intermediate):
        raise ProtocolError(
            f"the peer's experts are {intermediate} x {hidden}, ours {form.intermediate} x {form.hidden}"
        )
    return message.tensors[0], digest


@dataclass(frozen=True, slots=True)
class Cut:
    """Elements ``[begin, end)`` of one matrix, 0 for ``gate_up`` and 1 for ``down``."""

    matrix: int
    begin: int
    end: int

    def of(self, weights: ExpertWeights) -> Tensor:
        """A flat view."""
        return (weights.gate_up, weights.down)[self.matrix].view(-1)[self.begin : self.end]


def cut_at(form: ExpertForm, begin: int) -> Cut:
    """The piece that begins at element ``begin`` of an expert."""
    wide = math.prod(form.gate_up)
    matrix, first, size = (0, begin, wide) if begin < wide else (1, begin - wide, form.elements - wide)
    return Cut(matrix, first, min(first + PIECE_BYTES // form.dtype.itemsize, size))


def cuts(form: ExpertForm) -> Iterator[tuple[int, int]]:
    """Of all pieces of an expert: the element at which each begins, and how many it has."""
    begin = 0
    while begin < form.elements:
        cut = cut_at(form, begin)
        yield begin, cut.end - cut.begin
        begin += cut.end - cut.begin
