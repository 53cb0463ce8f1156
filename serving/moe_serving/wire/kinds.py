"""Numbers of all frame kinds, in one place so that no two protocols share one."""

from __future__ import annotations

from enum import IntEnum


class HandshakeKind(IntEnum):
    """Before a connection carries anything else; see ``handshake``."""

    HELLO = 0x01
    CHALLENGE = 0x02
    PROOF = 0x03
    WELCOME = 0x04
    REFUSE = 0x05


class ExpertKind(IntEnum):
    """To a shard and back: from attention, ``moe_serving.experts.messages``; from other shards, ``experts.pieces``."""

    COMPUTE = 0x10
    PARTIAL_SUMS = 0x11
    PAIR_OUTPUTS = 0x12
    FETCH = 0x13
    PIECE = 0x14
    DOUBT = 0x15


class StreamKind(IntEnum):
    """Attention to api: the tokens of one step for all requests of that api, or that there are none; ``streams``."""

    TOKENS = 0x20
    PULSE = 0x21


class CallKind(IntEnum):
    """To the directory from attention and api, from it to shards, and back; see ``calls``."""

    CALL = 0x30
    ANSWER = 0x31
    FAILURE = 0x32
    CANCEL = 0x33
