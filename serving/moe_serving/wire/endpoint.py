"""Where a listener can be reached, and how its sockets are opened.

Unix sockets have abstract names, chosen at random: no files, so a process killed with SIGKILL leaves nothing behind.
Like a TCP port such a name is open to every user of the machine; who may talk to us is decided by the key.
"""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass, field

from moe_contract.applications import Network
from moe_serving.wire.errors import WireError
from moe_serving.wire.handshake import KEY_SIZE

_BACKLOG = 128
_QUIET_SECONDS = 15
"""Linux asks for the first time after two hours unless told otherwise."""
_QUESTIONS = 3
_UNHEARD_MS = 1000 * _QUIET_SECONDS * (1 + _QUESTIONS)
"""So long what was sent may stay unconfirmed. The questions above are asked of idle connections only, and Linux sends
again for a quarter of an hour unless told otherwise."""
_ABSTRACT = "\0"
"""First byte of a unix socket's name that is no file, see unix(7)."""


@dataclass(frozen=True, slots=True)
class Address:
    """How to reach a listener.

    Attributes:
        node: id of the node it runs on; its unix socket is of use only there.
        key: the secret that both sides must prove; never logged.
        unix_name: of its unix socket, if it has one.
        host, port: of its TCP socket, if it has one.
    """

    node: str
    key: bytes = field(repr=False)
    unix_name: str | None = None
    host: str | None = None
    port: int | None = None

    @property
    def in_words(self) -> str:
        """For messages."""
        return self.unix_name or f"{self.host}:{self.port}"

    def target(self, network: Network, node: str) -> str | tuple[str, int]:
        """What a process on ``node`` connects to: the address of a unix socket, or host and port.

        Raises:
            WireError: the listener has no socket that fits.
        """
        if self.unix_name is not None and network != "tcp" and (network == "unix" or node == self.node):
            return _ABSTRACT + self.unix_name
        if self.host is not None and self.port is not None and network != "unix":
            return self.host, self.port
        raise WireError(f"network {network!r} cannot reach {self} from node {node!r}; use network 'auto'")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The open listening sockets of one process (non-blocking) and the address to hand out for them."""

    address: Address
    sockets: tuple[socket.socket, ...]

    @classmethod
    def open(cls, node: str, host: str, network: Network = "auto") -> Endpoint:
        """Listen on a unix socket and on TCP at a free port of ``host``, or on one of the two as ``network`` says."""
        name = f"moe-{secrets.token_hex(8)}" if network != "tcp" else None
        unix = _listen_unix(name) if name else None
        tcp = _listen_tcp(host) if network != "unix" else None
        address = Address(
            node=node,
            key=secrets.token_bytes(KEY_SIZE),
            unix_name=name,
            host=host if tcp else None,
            port=tcp.getsockname()[1] if tcp else None,
        )
        return cls(address, tuple(s for s in (unix, tcp) if s is not None))

    def close(self) -> None:
        """Listen no more; connections already accepted live on."""
        for listening in self.sockets:
            listening.close()


def configure(connection: socket.socket) -> None:
    """Set up a connected socket: no waiting for more bytes before a small frame is sent, and an end to connections
    whose peer's node has vanished without a word, a minute later, whether anything was under way or not.
    """
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _QUIET_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _QUIET_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _QUESTIONS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNHEARD_MS)


def _listen_tcp(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family, backlog=_BACKLOG)
    listening.setblocking(False)
    return listening


def _listen_unix(name: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    listening.bind(_ABSTRACT + name)
    listening.listen(_BACKLOG)
    return listening
