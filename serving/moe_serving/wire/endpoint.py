"""Where a listener can be reached, and how its sockets are opened.

Unix sockets lie in one private directory per user, named at random. A process killed with SIGKILL leaves its file
behind; whoever opens the next listener removes those that nobody listens on.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from moe_placement.wire.applications import Network
from moe_serving.wire.errors import WireError
from moe_serving.wire.handshake import KEY_SIZE

_BACKLOG = 128
_MAX_UNIX_PATH = 107
"""Linux's limit on ``sun_path`` without the terminating zero."""


@dataclass(frozen=True, slots=True)
class Address:
    """How to reach a listener.

    Attributes:
        node: id of the node it runs on; its unix socket is of use only there.
        key: the secret that both sides must prove; never logged.
        unix_path: of its unix socket, if it has one.
        host, port: of its TCP socket, if it has one.
    """

    node: str
    key: bytes = field(repr=False)
    unix_path: str | None = None
    host: str | None = None
    port: int | None = None

    def target(self, network: Network, node: str) -> str | tuple[str, int]:
        """What a process on ``node`` connects to: the path of a unix socket, or host and port.

        Raises:
            WireError: the listener has no socket that fits.
        """
        if self.unix_path is not None and network != "tcp" and (network == "unix" or node == self.node):
            return self.unix_path
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
        path = _new_socket_path() if network != "tcp" else None
        unix = _listen_unix(path) if path else None
        tcp = _listen_tcp(host) if network != "unix" else None
        address = Address(
            node=node,
            key=secrets.token_bytes(KEY_SIZE),
            unix_path=str(path) if path else None,
            host=host if tcp else None,
            port=tcp.getsockname()[1] if tcp else None,
        )
        return cls(address, tuple(s for s in (unix, tcp) if s is not None))

    def close(self) -> None:
        """Listen no more; connections already accepted live on."""
        for listening in self.sockets:
            listening.close()
        if self.address.unix_path is not None:
            with suppress(FileNotFoundError):
                os.unlink(self.address.unix_path)


def configure(connection: socket.socket) -> None:
    """Set up a connected socket: never blocking, no waiting for more bytes before a small frame is sent, and an end to
    connections whose peer's node has vanished without a word.
    """
    connection.setblocking(False)
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _listen_tcp(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family, backlog=_BACKLOG)
    listening.setblocking(False)
    return listening


def _new_socket_path() -> Path:
    directory = _socket_directory()
    _remove_dead_sockets(directory)
    path = directory / f"{secrets.token_hex(6)}.sock"
    if len(os.fsencode(path)) > _MAX_UNIX_PATH:
        raise WireError(
            f"unix socket path {path} is longer than {_MAX_UNIX_PATH} bytes; set TMPDIR to a shorter directory or use "
            "network 'tcp'"
        )
    return path


def _listen_unix(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    # A socket met between bind and listen would be taken for a dead one, so it gets its name once it listens.
    unfinished = path.with_suffix("")
    listening.bind(str(unfinished))
    listening.listen(_BACKLOG)
    unfinished.rename(path)
    return listening


def _socket_directory() -> Path:
    directory = Path(tempfile.gettempdir()) / f"moe-{os.getuid()}"
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise WireError(f"{directory} must be a directory that only user {os.getuid()} can enter; remove it")
    return directory


def _remove_dead_sockets(directory: Path) -> None:
    for path in directory.glob("*.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue  # its listener is busy, or somebody else has just removed it
