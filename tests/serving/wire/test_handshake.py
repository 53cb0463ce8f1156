"""The handshake between two channels, without sockets."""

from __future__ import annotations

import hmac
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_serving.wire.channel import Channel
from moe_serving.wire.errors import HandshakeError, ProtocolError, RefusalReason, WireError
from moe_serving.wire.frames import Buffer, Frame, FrameDecoder, encode
from moe_serving.wire.handshake import MAX_HANDSHAKE_BODY, Initiator, Listener
from moe_serving.wire.kinds import HandshakeKind

KEY, OTHER_KEY = bytes(range(32)), bytes(32)


def initiator(key: bytes = KEY, subject: str = "sha256:a", max_body: int = 10_000) -> Channel:
    return Channel.initiator(key, subject, "attention-1", max_body)


def listener(key: bytes = KEY, subject: str = "sha256:a") -> Channel:
    return Channel.listener(key, subject, 10_000)


def decoded(buffers: list[Buffer]) -> Frame:
    """The one frame that they are."""
    (frame,) = FrameDecoder(MAX_HANDSHAKE_BODY).feed(b"".join(bytes(buffer) for buffer in buffers))
    return frame


def framed(kind: HandshakeKind, body: bytes) -> Frame:
    return Frame(kind, 0, 0, memoryview(body))


def drain(channel: Channel) -> bytes:
    data = b"".join(bytes(buffer) for buffer in channel.outbox)
    channel.outbox.clear()
    return data


def shake(left: Channel, right: Channel) -> None:
    """Carry bytes both ways until nobody has anything to say; refusals are delivered before errors are raised."""
    error: WireError | None = None
    while left.outbox or right.outbox:
        for sender, receiver in ((left, right), (right, left)):
            try:
                receiver.feed(drain(sender))
            except WireError as caught:
                error = caught
    if error:
        raise error


def test_peers_with_the_same_key_and_subject_trust_each_other() -> None:
    ours, theirs = initiator(), listener()
    shake(ours, theirs)
    assert ours.established
    assert theirs.established
    assert theirs.peer_name == "attention-1"
    (frame,) = theirs.feed(b"".join(encode(0x10, b"x" * 5000)))
    assert len(frame.body) == 5000


def test_an_initiator_finds_out_that_the_listener_lacks_the_key() -> None:
    with pytest.raises(HandshakeError, match="does not hold the key") as caught:
        shake(initiator(), listener(OTHER_KEY))
    assert caught.value.reason is RefusalReason.WRONG_KEY


def test_a_listener_refuses_an_initiator_that_lacks_the_key() -> None:
    """An impostor that skips the check of the listener's proof and sends one of its own making."""
    theirs = listener()
    theirs.feed(drain(initiator(OTHER_KEY)))
    with pytest.raises(HandshakeError, match="attention-1 does not hold this listener's key"):
        theirs.feed(b"".join(encode(HandshakeKind.PROOF, bytes(32))))
    assert not theirs.established


def test_a_reflected_proof_is_worth_nothing() -> None:
    theirs = listener()
    theirs.feed(drain(initiator(OTHER_KEY)))
    challenge = drain(theirs)
    with pytest.raises(HandshakeError):
        theirs.feed(b"".join(encode(HandshakeKind.PROOF, challenge[-32:])))


def test_a_replayed_hello_meets_a_new_challenge() -> None:
    ours, first, second = initiator(), listener(), listener()
    hello = drain(ours)
    first.feed(hello)
    ours.feed(drain(first))
    proof = drain(ours)
    second.feed(hello)
    with pytest.raises(HandshakeError):
        second.feed(proof)


def test_both_sides_hear_that_they_serve_different_models() -> None:
    ours, theirs = initiator(subject="sha256:a"), listener(subject="sha256:b")
    with pytest.raises(HandshakeError, match=r"'sha256:b'.*'sha256:a'") as caught:
        shake(ours, theirs)
    assert caught.value.reason is RefusalReason.OTHER_SUBJECT
    assert "refused by the listener" in str(caught.value)


def test_another_version_is_refused_in_so_many_words() -> None:
    hello = bytearray(drain(initiator()))
    hello[4] = 9
    theirs, ours = listener(), initiator()
    with pytest.raises(ProtocolError, match=r"speaks version 9 of the protocol, this process \(release .*\) version 2"):
        theirs.feed(hello)
    with pytest.raises(HandshakeError, match="refused by the listener") as caught:
        ours.feed(drain(theirs))
    assert caught.value.reason is RefusalReason.OTHER_VERSION


@pytest.mark.parametrize(("mine", "theirs"), [("0.2.0", "0.3.0"), ("0.3.0", "0.2.0")])
def test_both_sides_tell_their_releases(mine: str, theirs: str) -> None:
    ours, listening = Initiator(KEY, "sha256:a", "attention-1", mine), Listener(KEY, "sha256:b", theirs)
    with pytest.raises(HandshakeError, match=rf"here release {theirs}, there {mine}"):
        shake(Channel(ours, 10_000), Channel(listening, 10_000))
    assert (ours.peer_release, listening.peer_release) == (theirs, mine)


def test_what_a_later_release_adds_is_left_alone() -> None:
    later = b"what a later release has to say"
    theirs = Listener(KEY, "sha256:a")
    hello = bytes(32) + b"\x08\x00sha256:a" + b"\x01\x00a" + b"\x05\x000.9.0" + later
    challenge = bytes(decoded(theirs.receive(framed(HandshakeKind.HELLO, hello))).body)
    proof = hmac.digest(KEY, b"initiator\0" + hello + challenge[:-32], "sha256")
    theirs.receive(framed(HandshakeKind.PROOF, proof + later))
    assert (theirs.established, theirs.peer_name, theirs.peer_release) == (True, "a", "0.9.0")

    ours = Initiator(KEY, "sha256:a", "attention-1")
    hello = bytes(decoded(ours.open()).body)
    challenge = bytes(32) + b"\x08\x00sha256:a" + b"\x05\x000.9.0" + b"\x0a\x00fp8-rows b" + later
    seal = hmac.digest(KEY, b"listener\0" + hello + challenge, "sha256")
    ours.receive(framed(HandshakeKind.CHALLENGE, challenge + seal))
    ours.receive(framed(HandshakeKind.WELCOME, later))
    assert (ours.established, ours.peer_release) == (True, "0.9.0")
    assert ours.peer_features == {"fp8-rows", "b"}


@pytest.mark.parametrize("features", [(), ("fp8-rows",), ("b", "a")])
def test_who_connects_is_told_what_the_listener_knows(features: tuple[str, ...]) -> None:
    ours, theirs = initiator(), Channel.listener(KEY, "sha256:a", 10_000, features)
    shake(ours, theirs)
    assert ours.peer_features == set(features)
    assert theirs.peer_features == set()


def test_a_listener_of_a_release_without_features_has_none() -> None:
    ours = Initiator(KEY, "sha256:a", "attention-1")
    hello = bytes(decoded(ours.open()).body)
    challenge = bytes(32) + b"\x08\x00sha256:a" + b"\x05\x000.2.0"
    ours.receive(
        framed(HandshakeKind.CHALLENGE, challenge + hmac.digest(KEY, b"listener\0" + hello + challenge, "sha256"))
    )
    assert (ours.peer_release, ours.peer_features) == ("0.2.0", set())


def test_application_frames_before_the_handshake_are_refused() -> None:
    with pytest.raises(ProtocolError, match="expected HELLO"):
        listener().feed(b"".join(encode(0x10, b"data")))


def test_large_frames_are_refused_until_the_key_is_proved() -> None:
    with pytest.raises(ProtocolError, match="exceeds"):
        listener().feed(b"".join(encode(HandshakeKind.HELLO, bytes(MAX_HANDSHAKE_BODY + 1))))


@given(st.binary(max_size=300))
def test_no_hello_can_do_worse_than_a_wire_error(body: bytes) -> None:
    theirs = listener()
    with suppress(WireError):
        theirs.feed(b"".join(encode(HandshakeKind.HELLO, body)))
    assert not theirs.established


@given(st.binary(max_size=300), st.sampled_from(HandshakeKind))
def test_no_answer_can_do_worse_than_a_wire_error(body: bytes, kind: HandshakeKind) -> None:
    ours = initiator()
    with suppress(WireError):
        ours.feed(b"".join(encode(kind, body)))
    assert not ours.established
