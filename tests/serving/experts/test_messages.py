"""Whatever tensors a peer sends: a request, an answer, or a ProtocolError."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moe_serving.experts.messages import FP8, PER_PAIR, ComputeReply, ComputeRequest
from moe_serving.fp8.rows import E4M3, pack
from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.kinds import ExpertKind
from moe_serving.wire.transport import Message

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64, E4M3)
REQUEST = ComputeRequest(
    layer=0,
    hidden=torch.zeros(2, 3),
    offsets=torch.tensor([0, 1, 2], dtype=torch.int32),
    experts=torch.tensor([0, 1], dtype=torch.int32),
    weights=torch.ones(2),
)
PACKED = replace(REQUEST, hidden=pack(REQUEST.hidden).values, scales=pack(REQUEST.hidden).scales)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any type and shape that travels."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    values = draw(st.integers(-2, 3))
    return torch.full(shape, values).to(draw(st.sampled_from(DTYPES)))


MESSAGES = st.builds(
    Message,
    kind=st.sampled_from([*ExpertKind]),
    meta=st.sampled_from([b"", b"\0\0\0\0", b"\1\0\0\0\0"]),
    tensors=st.lists(tensors(), max_size=5).map(tuple),
    flags=st.sampled_from([0, PER_PAIR, FP8, FP8 | PER_PAIR, 6]),
)


@given(MESSAGES)
def test_any_message_is_a_request_or_an_error(message: Message) -> None:
    try:
        request = ComputeRequest.from_message(message)
    except ProtocolError:
        return
    assert request.offsets[-1] == len(request.experts)
    assert (request.hidden.dtype == E4M3) == (request.scales is not None) == (message.flags == FP8)


SUMS = st.sampled_from([torch.zeros(2, 3), torch.zeros(2, 3).to(E4M3)]) | tensors()


@given(
    st.builds(
        Message,
        kind=st.just(ExpertKind.PARTIAL_SUMS),
        meta=st.just(b""),
        tensors=st.tuples(SUMS, tensors()) | st.tuples(SUMS, tensors(), st.just(torch.ones(2)) | tensors()),
        flags=st.sampled_from([0, FP8]),
    ),
    st.sampled_from([REQUEST, PACKED]),
)
def test_any_message_is_an_answer_or_an_error(message: Message, asked: ComputeRequest) -> None:
    try:
        reply = ComputeReply.from_message(message, asked)
    except ProtocolError:
        return
    assert bool(message.flags & FP8) == (asked is PACKED)
    assert reply.values.dtype == torch.float32
    assert reply.values.shape == (2, 3)
    assert all(0 <= pair < 2 for pair in reply.missing.tolist())


@pytest.mark.parametrize(
    "missing", [torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, 1, dtype=torch.int32), torch.tensor(0.5)], ids=str
)
def test_missing_pairs_of_another_type(missing: Tensor) -> None:
    with pytest.raises(ProtocolError, match="missing pairs must be int32"):
        ComputeReply.from_message(Message(ExpertKind.PARTIAL_SUMS, b"", (torch.zeros(2, 3), missing)), REQUEST)


def test_what_is_packed_comes_as_it_went() -> None:
    hidden, sums = torch.randn(2, 3), torch.randn(2, 3)
    asked = replace(PACKED, hidden=pack(hidden).values, scales=pack(hidden).scales)
    message = asked.to_message()
    assert torch.equal(
        ComputeRequest.from_message(message).unpacked(torch.float32).hidden, asked.unpacked(torch.float32).hidden
    )
    answer = ComputeReply(sums, torch.tensor([1], dtype=torch.int32)).to_message(packed=True)
    reply = ComputeReply.from_message(answer, asked)
    assert torch.equal(reply.values, pack(sums).unpacked(torch.float32))
    assert reply.missing.tolist() == [1]
    assert REQUEST.unpacked(torch.bfloat16) is REQUEST


@pytest.mark.parametrize(
    ("at", "tensor", "message"),
    [
        (0, torch.zeros(2, 3), "rows must be floats"),
        (4, torch.zeros(3), r"scales of 2 rows must be float32 \[2\], got torch.float32 \[3\]"),
        (4, torch.zeros(2, dtype=torch.float16), "scales of 2 rows must be float32"),
    ],
    ids=str,
)
def test_packed_requests_that_contradict_themselves(at: int, tensor: Tensor, message: str) -> None:
    sent = PACKED.to_message()
    tensors = [tensor if number == at else each for number, each in enumerate(sent.tensors)]
    with pytest.raises(ProtocolError, match=message):
        ComputeRequest.from_message(replace(sent, tensors=tuple(tensors)))


@pytest.mark.parametrize(("asked", "packed"), [(REQUEST, True), (PACKED, False)])
def test_an_answer_is_packed_as_the_question_was(asked: ComputeRequest, packed: bool) -> None:
    answer = ComputeReply(torch.zeros(2, 3), torch.zeros(0, dtype=torch.int32)).to_message(packed)
    with pytest.raises(ProtocolError, match="expected PARTIAL_SUMS"):
        ComputeReply.from_message(answer, asked)
