"""Simulated nodes: a network namespace each, and a link to it that carries so many bits a second, both ways.

Needs root and iproute2. The kernel's token bucket (``tc … tbf``) limits what leaves either end of a link; that a link
takes its time is added at the transport, since netem is not in every kernel. Addresses are those set aside for
benchmarks (RFC 2544), and exist on this machine only.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from moe_serving.wire.endpoint import Address
from moe_serving.wire.transport import Message, SocketCompletion, SocketFabric, SocketTransport

DELAY_S = 50e-6
"""From an answer's arrival to its being known: what a link of a data centre takes for a request and its answer."""
_BURST_S, _LEAST_BURST = 50e-6, 3000
"""What may leave at once: what flows in so long, and two frames at least."""


class Links:
    """``count`` nodes; ``with`` made ones. Their processes are reached at ``host(n)`` from this one's namespace."""

    def __init__(self, count: int) -> None:
        self._stem = f"mb{os.getpid()}"
        self._net = f"198.18.{os.getpid() % 250}"
        self.count = count

    def namespace(self, node: int) -> str:
        return f"{self._stem}-{node}"

    def host(self, node: int) -> str:
        return f"{self._net}.{10 + node}"

    def make(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", f"{self._net}.1/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        for node in range(self.count):
            name, ours = self.namespace(node), self._end(node)
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", ours, "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "link", "set", ours, "master", self._bridge, "up")
            _run("ip", "-n", name, "address", "add", f"{self.host(node)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", name, "link", "set", device, "up")

    def limit(self, gigabits: float | None) -> None:
        """Of every link in each direction; None for none."""
        for node in range(self.count):
            for where, device in (((), self._end(node)), (("-n", self.namespace(node)), "eth0")):
                tc = ("tc", *where, "qdisc")
                if gigabits is None:
                    _run(*tc, "delete", "dev", device, "root", may_fail=True)
                else:
                    burst = max(_LEAST_BURST, int(gigabits * 1e9 / 8 * _BURST_S))
                    limits = ("rate", f"{gigabits * 1000:g}mbit", "burst", f"{burst}b", "limit", "64mb")
                    _run(*tc, "replace", "dev", device, "root", "tbf", *limits)

    def carried(self) -> int:
        """Bytes of all links so far, both ways."""
        counts = (Path("/sys/class/net", self._end(node), "statistics") for node in range(self.count))
        return sum(int((at / way).read_text()) for at in counts for way in ("rx_bytes", "tx_bytes"))

    def remove(self) -> None:
        for node in range(self.count):
            _run("ip", "netns", "delete", self.namespace(node), may_fail=True)
            _run("ip", "link", "delete", self._end(node), may_fail=True)
        _run("ip", "link", "delete", self._bridge, may_fail=True)

    @property
    def _bridge(self) -> str:
        return f"{self._stem}b"

    def _end(self, node: int) -> str:
        return f"{self._stem}v{node}"


@contextmanager
def linked_nodes(count: int) -> Iterator[Links]:
    """Nodes that go with the block.

    Raises:
        PermissionError: they need root.
    """
    if os.geteuid():
        raise PermissionError("network namespaces and limited links need root")
    links = Links(count)
    try:
        links.make()
        yield links
    finally:
        links.remove()


class SlowFabric:
    """Sockets whose answers are known ``DELAY_S`` after they came. Implements ``wire.transport.Fabric``."""

    def __init__(self, sockets: SocketFabric) -> None:
        self._sockets = sockets

    def connect(self, address: Address, timeout: float) -> SlowTransport:
        return SlowTransport(self._sockets.connect(address, timeout))

    def wait(self, pending: Sequence[SlowCompletion], timeout: float) -> None:
        end = time.monotonic() + timeout
        while True:
            self._sockets.wait([each.inner for each in pending], max(0.0, end - time.monotonic()))
            due = min((each.due for each in pending if each.inner.done), default=None)
            while due is not None and time.monotonic() < due:
                # A sleep so short lasts twice as long.
                os.sched_yield()
            if due is not None or time.monotonic() >= end:
                return


class SlowTransport:
    """Implements ``wire.transport.Transport``."""

    def __init__(self, inner: SocketTransport) -> None:
        self._inner = inner

    @property
    def features(self) -> frozenset[str]:
        return self._inner.features

    def submit(self, message: Message) -> SlowCompletion:
        return SlowCompletion(self._inner.submit(message))

    def close(self) -> None:
        self._inner.close()


class SlowCompletion:
    """Implements ``wire.transport.Completion``."""

    def __init__(self, inner: SocketCompletion) -> None:
        self.inner = inner
        self._due: float | None = None

    @property
    def due(self) -> float:
        """When the answer, which has come, is known."""
        if self._due is None:
            self._due = time.monotonic() + DELAY_S
        return self._due

    @property
    def done(self) -> bool:
        return self.inner.done and time.monotonic() >= self.due

    def result(self) -> Message:
        return self.inner.result()


def _run(*command: str, may_fail: bool = False) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
