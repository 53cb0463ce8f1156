"""What can go wrong between two peers. Each of these ends one connection and nothing else."""

from __future__ import annotations

from enum import IntEnum

from moe_serving.errors import MoEServingError


class WireError(MoEServingError):
    """Base of everything that ends a connection."""


class ProtocolError(WireError):
    """The peer sent bytes that are no frame of this protocol: wrong magic, version, size or content."""


class VersionMismatchError(ProtocolError):
    """The peer speaks another version of the protocol."""


class ConnectionLostError(WireError):
    """The peer is gone or silent: end of stream, reset, refused, or no answer in time."""


class PeerGoneError(ConnectionLostError):
    """The peer's process is known to have ended, or to be ending; not only silent."""


class RefusalReason(IntEnum):
    """Why a listener turns a peer away; travels in the refusal frame."""

    WRONG_KEY = 1
    OTHER_SUBJECT = 2
    OTHER_VERSION = 3
    MALFORMED = 4


class HandshakeError(WireError):
    """The two peers must not talk to each other: one has another key, version or subject (such as the model)."""

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
