"""Where the operator may connect: a user writes the address of a Ray cluster, the operator's administrator bounds it.

Pure. Inside a Kubernetes cluster an address of the operator's own pod or node (loopback, link-local) would let whoever
may create a MoEDeployment reach what only the node should. A host name is judged by what it resolves to, at each
connection, so that a name cannot change its mind after the check.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from moe_contract.local_addresses import is_local, plain
from moe_operator.endpoint import Endpoint, EndpointError, IPAddress, ip_address, parse_host, parse_port
from moe_operator.runtimes.errors import RayAddressRefusedError

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_GLOB = re.compile(r"[A-Za-z0-9_*?-]+([.][A-Za-z0-9_*?-]+)*")


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
        """Read ``host``, ``host:port``, an IPv6 address, ``[v6]:port`` or ``network/bits``.

        Raises:
            ValueError: it is none; the message says what is wrong.
        """
        if "/" in text:
            return cls(text, network=_network(text))
        if ip_address(text) is not None and "%" not in text:
            return cls(text, host=_host(f"[{text}]" if ":" in text else text))
        host, colon, port = ("", "", "") if text.endswith("]") else text.rpartition(":")
        return cls(text, host=_host(host if colon else text), port=parse_port(port) if colon else None)

    @property
    def is_exact(self) -> bool:
        """Whether it names addresses, or one name, and not whatever name somebody may come to have."""
        return not {"*", "?"} & set(self.host)

    def names(self, host: str, port: int) -> bool:
        return bool(self.host) and fnmatch.fnmatchcase(host, self.host) and self.port in (None, port)

    def contains(self, address: IPAddress) -> bool:
        return self.network is not None and address in self.network


def _host(text: str) -> str:
    if {"*", "?"} & set(text):
        if not _GLOB.fullmatch(text):
            raise EndpointError(f"{text!a} is not a host with * and ?: write e.g. *.ray.svc")
        return text.lower()
    return parse_host(text)


def _network(text: str) -> IPNetwork:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise EndpointError(
            f"{text!a} is not a network: write network/bits, e.g. 10.0.0.0/8; a pattern has no scheme and no path"
        ) from None
    address, _, bits = text.partition("/")
    if network.network_address != ip_address(address) or not bits.isdecimal():
        raise EndpointError(f"{text!a} has bits of a host in it: write {network}")
    return network


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """The bound.

    Attributes:
        patterns: what is allowed; empty allows every address that is not local.
        refuse_local: whether addresses of the operator's own pod or node need a pattern without ``*`` and ``?`` that
            allows them: what a name below a domain resolves to is often for a tenant to say.
    """

    patterns: tuple[AddressPattern, ...] = ()
    refuse_local: bool = False

    def check(self, endpoint: Endpoint) -> None:
        """Judge before a connection is made; what a host name resolves to is judged by ``check_resolved``.

        Raises:
            RayAddressRefusedError: it is not allowed.
        """
        if endpoint.address is not None:
            self.check_resolved(endpoint, endpoint.address)
        elif self.patterns and not any(p.network or p.names(endpoint.host, endpoint.port) for p in self.patterns):
            raise self._refusal(endpoint)

    def check_resolved(self, endpoint: Endpoint, address: IPAddress) -> None:
        """Judge the IP address behind ``endpoint``.

        Raises:
            RayAddressRefusedError: it is not allowed.
        """
        address = plain(address)
        allowing = [p for p in self.patterns if p.names(endpoint.host, endpoint.port) or p.contains(address)]
        if self.patterns and not allowing:
            raise self._refusal(endpoint)
        if self.refuse_local and is_local(address) and not any(p.is_exact for p in allowing):
            raise RayAddressRefusedError(
                f"the operator may not connect to {endpoint.authority}: {address} is the operator's own pod or node; "
                "use an address of the Ray cluster, or have this one allowed with --allowed-ray-address"
            )

    def _refusal(self, endpoint: Endpoint) -> RayAddressRefusedError:
        allowed = ", ".join(pattern.text for pattern in self.patterns)
        return RayAddressRefusedError(
            f"the operator may not connect to {endpoint.authority}: --allowed-ray-address allows {allowed}; "
            "have it allowed there, or use an allowed address"
        )
