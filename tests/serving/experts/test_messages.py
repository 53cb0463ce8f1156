"""Whatever tensors a peer sends: a request, an answer, or a ProtocolError."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moe_serving.experts.messages import PER_PAIR, ComputeReply, ComputeRequest
from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.kinds import ExpertKind
from moe_serving.wire.transport import Message

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64)
REQUEST = ComputeRequest(
    layer=0,
    hidden=torch.zeros(2, 3),
    offsets=torch.tensor([0, 1, 2], dtype=torch.int32),
    experts=torch.tensor([0, 1], dtype=torch.int32),
    weights=torch.ones(2),
)


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
    flags=st.sampled_from([0, PER_PAIR, 6]),
)


@given(MESSAGES)
def test_any_message_is_a_request_or_an_error(message: Message) -> None:
    try:
        request = ComputeRequest.from_message(message)
    except ProtocolError:
        return
    assert request.offsets[-1] == len(request.experts)


@given(
    st.builds(
        Message,
        kind=st.just(ExpertKind.PARTIAL_SUMS),
        meta=st.just(b""),
        tensors=st.tuples(st.just(torch.zeros(2, 3)) | tensors(), tensors()),
    )
)
def test_any_message_is_an_answer_or_an_error(message: Message) -> None:
    try:
        reply = ComputeReply.from_message(message, REQUEST)
    except ProtocolError:
        return
    assert reply.values.shape == (2, 3)
    assert all(0 <= pair < 2 for pair in reply.missing.tolist())


@pytest.mark.parametrize(
    "missing", [torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, 1, dtype=torch.int32), torch.tensor(0.5)], ids=str
)
def test_missing_pairs_of_another_type(missing: Tensor) -> None:
    with pytest.raises(ProtocolError, match="missing pairs must be int32"):
        ComputeReply.from_message(Message(ExpertKind.PARTIAL_SUMS, b"", (torch.zeros(2, 3), missing)), REQUEST)
