"""Two peers prove to each other that they hold the listener's key. Sans-IO: frames in, frames out.

::

    initiator                                            listener
      HELLO  nonce_i, subject, name, release ─────────►
              ◄─────────  CHALLENGE  nonce_l, subject, release, features, HMAC(key, "listener", transcript)
      PROOF  HMAC(key, "initiator", transcript) ──────►
                                             ◄─────────  WELCOME, or REFUSE with a reason and a sentence

The transcript is the bodies of HELLO and CHALLENGE, so neither a replayed nor a reflected answer fits (the role is part
of it). The ``subject`` says what the connection is about, for expert shards the model's digest: peers with different
ones must not talk. The frame header carries the version of the protocol: peers of two versions do not talk, and each
names both. Processes of two releases that speak one version do; what stands behind the fields that are known here is
left alone. Features are names, with spaces between, of what the listener knows beside what this version of the protocol
says: who connects asks for that only where it is told. The key is random, made by the listener at its start and handed
out by actor calls; it is in no configuration. Frames after the handshake are neither encrypted nor signed: who can
rewrite packets inside the cluster's network can do so here too.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Collection
from typing import Protocol

from moe_serving.wire.errors import HandshakeError, ProtocolError, RefusalReason
from moe_serving.wire.frames import RELEASE, Buffer, Frame, encode
from moe_serving.wire.kinds import HandshakeKind

KEY_SIZE = 32
MAX_HANDSHAKE_BODY = 1024
"""Bytes a peer may send in one frame before it has proved anything."""
MAX_TEXT = 256
"""Bytes of a subject, a name, a release or all features."""
UNKNOWN = "unknown"

_NONCE_SIZE = 32
_MAC_SIZE = hashlib.sha256().digest_size
_LENGTH = struct.Struct("<H")
_LEAST = {
    HandshakeKind.HELLO: _NONCE_SIZE,
    HandshakeKind.CHALLENGE: _NONCE_SIZE + _MAC_SIZE,
    HandshakeKind.PROOF: _MAC_SIZE,
}
"""Bytes of a frame."""


class Handshake(Protocol):
    """One side of it. ``established`` turns true once this side trusts the other; ``peer_release`` and
    ``peer_features`` are told before."""

    established: bool
    peer_name: str
    peer_release: str
    peer_features: frozenset[str]

    def open(self) -> list[Buffer]:
        """What to send before anything was received."""
        ...

    def receive(self, frame: Frame) -> list[Buffer]:
        """Take the peer's next frame; returns what to send in reply.

        Raises:
            HandshakeError: the peer refused us, or could not prove the key.
            ProtocolError: the frame does not belong here.
        """
        ...


class Initiator:
    """The side that connects."""

    def __init__(self, key: bytes, subject: str, name: str, release: str = RELEASE) -> None:
        self.established = False
        self.peer_name = "listener"
        self.peer_release = UNKNOWN
        self.peer_features: frozenset[str] = frozenset()
        self._key = key
        self._hello = secrets.token_bytes(_NONCE_SIZE) + _text(subject) + _text(name) + _text(release)
        self._proved = False

    def open(self) -> list[Buffer]:
        return encode(HandshakeKind.HELLO, self._hello)

    def receive(self, frame: Frame) -> list[Buffer]:
        if frame.kind == HandshakeKind.REFUSE:
            raise _read_refusal(frame.body)
        if not self._proved:
            return self._prove(_expect(frame, HandshakeKind.CHALLENGE))
        _expect(frame, HandshakeKind.WELCOME)
        self.established = True
        return []

    def _prove(self, challenge: bytes) -> list[Buffer]:
        transcript = self._hello + challenge[:-_MAC_SIZE]
        if not hmac.compare_digest(challenge[-_MAC_SIZE:], _mac(self._key, b"listener", transcript)):
            raise HandshakeError(
                RefusalReason.WRONG_KEY,
                "the listener does not hold the key that was handed out for its address: it is another process, or it "
                "restarted; ask the directory for its new address",
            )
        self._proved = True
        _, rest = _read_text(challenge[_NONCE_SIZE:-_MAC_SIZE])
        self.peer_release, rest = _read_text(rest)
        if rest:  # of a release that has any
            self.peer_features = frozenset(_read_text(rest)[0].split())
        return encode(HandshakeKind.PROOF, _mac(self._key, b"initiator", transcript))


class Listener:
    """The side that was connected to; ``features``: see the module."""

    def __init__(self, key: bytes, subject: str, release: str = RELEASE, features: Collection[str] = ()) -> None:
        self.established = False
        self.peer_name = "unknown"
        self.peer_release = UNKNOWN
        self.peer_features: frozenset[str] = frozenset()
        self._release = release
        self._key = key
        self._subject = subject
        self._peer_subject = ""
        told = (subject, release, " ".join(sorted(features)))
        self._challenge = secrets.token_bytes(_NONCE_SIZE) + b"".join(map(_text, told))
        self._transcript: bytes | None = None

    def open(self) -> list[Buffer]:
        return []

    def receive(self, frame: Frame) -> list[Buffer]:
        if self._transcript is None:
            return self._answer_hello(_expect(frame, HandshakeKind.HELLO))
        proof = _expect(frame, HandshakeKind.PROOF)
        if not hmac.compare_digest(proof[:_MAC_SIZE], _mac(self._key, b"initiator", self._transcript)):
            raise HandshakeError(RefusalReason.WRONG_KEY, f"{self.peer_name} does not hold this listener's key")
        if self._peer_subject != self._subject:
            raise HandshakeError(
                RefusalReason.OTHER_SUBJECT,
                f"this listener is about {self._subject!r}, {self.peer_name} about {self._peer_subject!r}; "
                f"both must have loaded the same model ({releases(self._release, self.peer_release)})",
            )
        self.established = True
        return encode(HandshakeKind.WELCOME)

    def _answer_hello(self, hello: bytes) -> list[Buffer]:
        self._peer_subject, rest = _read_text(hello[_NONCE_SIZE:])
        self.peer_name, rest = _read_text(rest)
        self.peer_release, _ = _read_text(rest)
        self._transcript = hello + self._challenge
        return encode(HandshakeKind.CHALLENGE, self._challenge, _mac(self._key, b"listener", self._transcript))


def releases(mine: str, peer: str) -> str:
    """Of both sides, for a message."""
    return f"here release {mine}, there {peer}"


def refusal(error: HandshakeError) -> list[Buffer]:
    """The frame that tells a peer why it is turned away."""
    return encode(HandshakeKind.REFUSE, bytes([error.reason]), str(error).encode()[: MAX_HANDSHAKE_BODY - 1])


def _read_refusal(body: memoryview) -> HandshakeError:
    if not len(body) or body[0] not in RefusalReason.__members__.values():
        raise ProtocolError("a refusal without a known reason")
    sentence = bytes(body[1:]).decode(errors="replace")
    return HandshakeError(RefusalReason(body[0]), f"refused by the listener: {sentence}")


def _expect(frame: Frame, kind: HandshakeKind) -> bytes:
    if frame.kind != kind:
        raise ProtocolError(f"expected {kind.name}, got a frame of kind {frame.kind:#x} during the handshake")
    size = len(frame.body)
    if size < _LEAST.get(kind, 0):
        raise ProtocolError(f"a {kind.name} of {size} bytes")
    return bytes(frame.body)


def _mac(key: bytes, role: bytes, transcript: bytes) -> bytes:
    return hmac.new(key, role + b"\0" + transcript, hashlib.sha256).digest()


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > MAX_TEXT:
        raise ValueError(f"{text!r} has {len(raw)} bytes, at most {MAX_TEXT} fit a handshake")
    return _LENGTH.pack(len(raw)) + raw


def _read_text(data: bytes) -> tuple[str, bytes]:
    if len(data) < _LENGTH.size:
        raise ProtocolError("a hello ends inside a text")
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    if length > MAX_TEXT or end > len(data):
        raise ProtocolError(f"a text of {length} bytes does not fit the hello")
    return data[_LENGTH.size : end].decode(errors="replace"), data[end:]
