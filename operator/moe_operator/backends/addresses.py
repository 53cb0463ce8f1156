"""Where the operator may connect: a user writes the address of a Ray cluster, the operator's administrator bounds it.

Pure. Inside a Kubernetes cluster an address of the operator's own pod or node (loopback, link-local) would let whoever
may create a MoEDeployment reach what only the node should. A host name is judged by what it resolves to, at each
connection, so that a name cannot change its mind after the check.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from moe_operator.backends.errors import RayAddressRefusedError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class AddressPattern:
    """What ``--allowed-ray-address`` names: a host, in which ``*`` and ``?`` may stand, with or without port, or a
    network; ``network`` and ``host`` exclude each other, ``port`` None is any port."""

    text: str
    host: str = ""
    port: int | None = None
    network: IPNetwork | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host``, ``host:port``, ``[v6]:port`` or ``network/bits``; ValueError says what is wrong."""
        if "/" in text:
            return cls(text, network=ipaddress.ip_network(text, strict=False))
        host, port = text, ""
        if "]:" in text or text.count(":") == 1:
            host, _, port = text.rpartition(":")
        if not host or (port and not port.isdecimal()):
            raise ValueError(f"{text!r} is not a host, host:port or network/bits")
        return cls(text, host=host.strip("[]").lower(), port=int(port) if port else None)

    def names(self, host: str, port: int) -> bool:
        return bool(self.host) and fnmatch.fnmatchcase(host, self.host) and self.port in (None, port)

    def contains(self, address: IPAddress) -> bool:
        return self.network is not None and address in self.network


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """The bound.

    Attributes:
        patterns: what is allowed; empty allows every address that is not local.
        refuse_local: whether loopback, link-local and unspecified addresses need a pattern that allows them.
    """

    patterns: tuple[AddressPattern, ...] = ()
    refuse_local: bool = False

    def check(self, url: str) -> None:
        """Judge a URL before a connection is made; what a host name resolves to is judged by ``check_resolved``.

        Raises:
            RayAddressRefusedError: it is not allowed, or is no URL.
        """
        host, port = _host_and_port(url)
        address = _ip(host)
        if address is not None:
            self.check_resolved(host, port, address)
        elif self.patterns and not any(p.network or p.names(host, port) for p in self.patterns):
            raise self._refusal(host, port)

    def check_resolved(self, host: str, port: int, address: IPAddress) -> None:
        """Judge the IP address behind a host.

        Raises:
            RayAddressRefusedError: it is not allowed.
        """
        if any(p.names(host.lower(), port) or p.contains(address) for p in self.patterns):
            return
        if self.patterns:
            raise self._refusal(host, port)
        if self.refuse_local and _is_local(address):
            raise RayAddressRefusedError(
                f"the operator may not connect to {host}:{port}: {address} is the operator's own pod or node; use an "
                "address of the Ray cluster, or have this one allowed with --allowed-ray-address"
            )

    def _refusal(self, host: str, port: int) -> RayAddressRefusedError:
        allowed = ", ".join(pattern.text for pattern in self.patterns)
        return RayAddressRefusedError(
            f"the operator may not connect to {host}:{port}: --allowed-ray-address allows {allowed}; "
            "have it allowed there, or use an allowed address"
        )


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        return (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise RayAddressRefusedError(f"{url!r} is not a URL: {error}") from None


def _ip(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_local(address: IPAddress) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_link_local or address.is_unspecified
