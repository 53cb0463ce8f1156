"""IP addresses that lead to whoever connects, in every spelling: both planes connect to what users write. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
"""Linux takes 0.0.0.0 for loopback; the others of it belong to nobody."""
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")

# IPv6 networks whose addresses end in the IPv4 address that they lead to: compatible, mapped, translated (SIIT), NAT64.
_ENDING_IN_IPV4 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
"""A translator of one's own has the IPv4 address at the end, or as RFC 6052 lays it out for a prefix of 48 bits."""


def is_local(address: IPAddress) -> bool:
    """Whether an address leads, or may lead, to this pod or node: loopback, link-local, unspecified, multicast,
    broadcast, and IPv6 addresses that hold such an IPv4 address."""
    return any(map(_is_local, forms(address)))


def plain(address: IPAddress) -> IPAddress:
    """A mapped address as the IPv4 address that it is."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def forms(address: IPAddress) -> Iterator[IPAddress]:
    """The address, and the IPv4 addresses that a translator, a tunnel or the kernel may take it for."""
    yield address
    if not isinstance(address, ipaddress.IPv6Address):
        return
    bits = int(address)
    if any(address in network for network in _ENDING_IN_IPV4):
        yield ipaddress.IPv4Address(bits & 0xFFFFFFFF)
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield address.teredo[1]
    if address in _LOCAL_NAT64:
        around_bit_64 = (bits >> 64 & 0xFFFF) << 16 | (bits >> 40 & 0xFFFF)
        yield from (ipaddress.IPv4Address(found) for found in (bits & 0xFFFFFFFF, around_bit_64) if found)


def _is_local(address: IPAddress) -> bool:
    if isinstance(address, ipaddress.IPv4Address) and (address in _THIS_NETWORK or address == _BROADCAST):
        return True
    return address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
