"""What one shard asks of another: an expert, piece by piece, as messages of tensors.

``FETCH`` names layer, expert and the first element wanted; ``PIECE`` is answered with that one and those behind it, as
the expert is held: first ``gate_up``, then ``down``, row by row. Who asks paces the transfer, and who answers keeps
nothing of it: each piece is small enough that a request of attention's never waits long behind it. It repeats what was
asked for, so that it is never taken for a piece of another expert, and says the form and the digest of the whole, so
that one who was answered from two different copies knows.

``DOUBT`` names layer and expert: what came did not fit its digest. Whoever holds it looks at it again; ``DOUBT``
without anything is the answer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from moe_serving.checkpoint.reader import ExpertForm, ExpertWeights
from moe_serving.experts.description import ExpertKey
from moe_serving.experts.errors import NotHeldError
from moe_serving.experts.pool import ExpertPool
from moe_serving.faults import FaultPoint, reached
from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.kinds import ExpertKind
from moe_serving.wire.transport import Message

PIECE_BYTES = 1 << 18
"""Of one piece at most: copied and sent within a fraction of a millisecond, and 2 ms of a link of 1 Gb/s."""
MAX_PIECE_BODY = PIECE_BYTES + 4096
"""Of its frame."""
NOT_HELD = 1
"""Flag of an answer: this shard does not hold the expert."""

_FETCH = struct.Struct("<IIQ")
_DOUBT = struct.Struct("<II")
_PIECE = struct.Struct("<IIQII32s")


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
        parts = tuple(part.to("cpu", copy=True) for part in _cut(slot.weights, request.begin))
        reached(FaultPoint.SHARD_SENDS)
        return Message(
            ExpertKind.PIECE, _PIECE.pack(*request.place, form.hidden, form.intermediate, slot.digest), parts
        )


def take_piece(message: Message, weights: ExpertWeights, form: ExpertForm, asked: FetchRequest) -> tuple[int, bytes]:
    """Put the piece that was ``asked`` for in its place.

    Returns:
        How many elements it has, and the digest that the whole has.

    Raises:
        NotHeldError: the peer does not hold that expert, or not any more.
        ProtocolError: the answer does not fit.
    """
    if message.kind != ExpertKind.PIECE:
        raise ProtocolError(f"expected a PIECE, got kind {message.kind:#x}")
    if message.flags == NOT_HELD:
        raise NotHeldError("the peer does not hold it")
    if message.flags or len(message.meta) != _PIECE.size or len(message.tensors) != 2:
        raise ProtocolError("a PIECE that is none")
    *repeated, hidden, intermediate, digest = _PIECE.unpack(message.meta)
    if tuple(repeated) != asked.place:
        raise ProtocolError(f"a piece of another expert: asked for {asked.place}, got {tuple(repeated)}")
    if (hidden, intermediate) != (form.hidden, form.intermediate):
        raise ProtocolError(
            f"the peer's experts are {intermediate} x {hidden}, ours {form.intermediate} x {form.hidden}"
        )
    places = _cut(weights, asked.begin)
    for part, place in zip(message.tensors, places, strict=True):
        if part.dtype != place.dtype or part.shape != place.shape:
            raise ProtocolError(f"expected {list(place.shape)} {place.dtype}, got {list(part.shape)} {part.dtype}")
        place.copy_(part)
    return sum(part.numel() for part in places), digest


def _cut(weights: ExpertWeights, begin: int) -> tuple[Tensor, Tensor]:
    """Of the piece that begins at element ``begin``: what is of ``gate_up`` and what of ``down``, flat views."""
    gate_up, down = weights.gate_up.view(-1), weights.down.view(-1)
    end = begin + PIECE_BYTES // gate_up.itemsize
    return gate_up[begin:end], down[max(0, begin - len(gate_up)) : max(0, end - len(gate_up))]
