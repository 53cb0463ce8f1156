"""Ports to listen on that nobody else has."""

from __future__ import annotations

import contextlib
import errno
import random
import socket

# Below the range from which the kernel takes ports of outgoing connections, so those cannot take one in between.
PORTS = range(20000, 32000)


def free_ports(count: int) -> list[int]:
    """Distinct ports that nothing listens on now, all from PORTS.

    Raises:
        OSError: there are not so many.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(errno.EADDRINUSE, f"no {count} free ports in {PORTS.start}–{PORTS.stop - 1}")
