"""One end of a connection without its socket: first the handshake, then the application's frames.

The drivers (``blocking``, ``aio``, the shard's selector loop) move bytes between a socket and this object and do
nothing else, so all of them obey the same protocol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from moe_serving.wire.errors import HandshakeError, ProtocolError, RefusalReason, VersionMismatchError
from moe_serving.wire.frames import Buffer, Frame, FrameDecoder, pour
from moe_serving.wire.handshake import MAX_HANDSHAKE_BODY, Handshake, Initiator, Listener, refusal


class Channel:
    """Reads frames and answers the peer's handshake.

    ``outbox`` holds what the driver must send: it is filled at the start (initiator), during the handshake, and with a
    refusal before an error that the peer should hear of.
    """

    def __init__(self, handshake: Handshake, max_body: int) -> None:
        self.outbox: deque[Buffer] = deque(handshake.open())
        self._handshake = handshake
        self._max_body = max_body
        self._decoder = FrameDecoder(MAX_HANDSHAKE_BODY)

    @classmethod
    def initiator(cls, key: bytes, subject: str, name: str, max_body: int) -> Channel:
        """``name`` is shown in the listener's logs."""
        return cls(Initiator(key, subject, name), max_body)

    @classmethod
    def listener(cls, key: bytes, subject: str, max_body: int, features: Collection[str] = ()) -> Channel:
        """``features`` are told to the peer; see ``handshake``."""
        return cls(Listener(key, subject, features=features), max_body)

    @property
    def established(self) -> bool:
        """Whether both sides have proved the key; only then may application frames be sent."""
        return self._handshake.established

    @property
    def peer_name(self) -> str:
        return self._handshake.peer_name

    @property
    def peer_release(self) -> str:
        """See ``Handshake``."""
        return self._handshake.peer_release

    @property
    def peer_features(self) -> frozenset[str]:
        """See ``Handshake``; none of a peer that has connected."""
        return self._handshake.peer_features

    def space(self) -> memoryview:
        """See ``FrameDecoder.space``."""
        return self._decoder.space()

    def filled(self, count: int) -> Frame | None:
        """See ``FrameDecoder.filled``; frames of the handshake are dealt with here and not returned.

        Raises:
            HandshakeError, ProtocolError: send what is in ``outbox``, then close this connection.
        """
        try:
            frame = self._decoder.filled(count)
            if frame is None or self.established:
                return frame
            self._shake_hands(frame)
        except HandshakeError as error:
            self._refuse(error)
            raise
        except ProtocolError as error:
            if not self.established:
                other_version = isinstance(error, VersionMismatchError)
                reason = RefusalReason.OTHER_VERSION if other_version else RefusalReason.MALFORMED
                self._refuse(HandshakeError(reason, str(error)))
            raise
        return None

    def feed(self, data: Buffer) -> list[Frame]:
        """See ``FrameDecoder.feed``; raises as ``filled``."""
        return pour(self, data)

    def _shake_hands(self, frame: Frame) -> None:
        self.outbox.extend(self._handshake.receive(frame))
        if self.established:
            self._decoder.max_body = self._max_body

    def _refuse(self, error: HandshakeError) -> None:
        if isinstance(self._handshake, Listener):
            self.outbox.extend(refusal(error))
