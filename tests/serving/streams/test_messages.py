import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_serving.streams.messages import MAX_STREAM, StreamEvent, decode_events, encode_events
from moe_serving.wire.errors import ProtocolError

U32 = st.integers(0, MAX_STREAM)
EVENTS = st.builds(
    StreamEvent,
    stream=U32,
    token_ids=st.lists(U32, max_size=5).map(tuple),
    finish=st.sampled_from([None, "stop", "length", "error"]),
    error=st.none() | st.text(min_size=1, max_size=20),
)


@given(st.lists(EVENTS, max_size=6))
def test_events_round_trip(events: list[StreamEvent]) -> None:
    assert decode_events(memoryview(encode_events(events))) == events


@given(st.binary(max_size=60))
def test_any_bytes_are_events_or_a_protocol_error(body: bytes) -> None:
    try:
        events = decode_events(memoryview(body))
    except ProtocolError:
        return
    assert encode_events(events) is not None


@given(st.lists(EVENTS, min_size=1, max_size=3), st.data())
def test_a_body_cut_short_is_an_error_or_fewer_events(events: list[StreamEvent], data: st.DataObject) -> None:
    body = encode_events(events)
    cut = data.draw(st.integers(0, len(body) - 1))
    try:
        assert decode_events(memoryview(body[:cut])) == events[: len(decode_events(memoryview(body[:cut])))]
    except ProtocolError as error:
        assert "ends inside" in str(error)


def test_more_tokens_than_one_event_can_count() -> None:
    ids = tuple(range(150_000))
    events = decode_events(memoryview(encode_events([StreamEvent(7, ids, "length")])))
    assert sum((event.token_ids for event in events), ()) == ids
    assert [event.finish for event in events] == [None, None, "length"]


def test_an_unknown_finish_reason() -> None:
    body = bytearray(encode_events([StreamEvent(1, (), "stop")]))
    body[6] = 9
    with pytest.raises(ProtocolError, match="unknown finish reason 9"):
        decode_events(memoryview(body))
