"""Where a connection goes: scheme, host and port, read from a URL by one parser for everybody who judges or connects.

Pure. HTTP libraries and resolvers read more into a host than it says: ``①②⑦.0.0.1`` and ``127。0。0。1`` become
127.0.0.1 by IDNA, ``2130706433``, ``0177.0.0.1``, ``0x7f.1`` and ``127.1`` by the C library. So a host is taken only in
a form that nobody reads differently, and refused in every other: a name of ASCII letters, digits, ``-`` and ``_`` whose
last label is not a number, four decimal numbers, or an IPv6 address in brackets without a zone.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Self

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Also in the CRD, whose CEL knows RE2: nothing here that Python and RE2 read differently.
_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = rf"{_LABEL}([.]{_LABEL})*"
_PATH = "(/([A-Za-z0-9._~!$&()*+,;=:/-]|%[0-9A-Fa-f]{2})*)?"
URL_PATTERN = rf"^[Hh][Tt][Tt][Pp][Ss]?://({_NAME}|[\[][0-9A-Fa-f:]+[\]])(:[0-9]+)?{_PATH}$"
"""An http or https URL with a host in ASCII, and neither credentials nor query nor fragment."""
_LAST_NUMBER = "([0-9]+|0[Xx][0-9A-Fa-f]*)"
NUMBER_HOST_PATTERN = rf"^[^/]*//([^/:]*[.])?{_LAST_NUMBER}(:[0-9]*)?(/|$)"
"""A URL whose host the C library reads as an IPv4 address, whether it is one or not: its last label is a number."""
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4_HOST_PATTERN = rf"^[^/]*//{_OCTET}([.]{_OCTET}){{3}}(:[0-9]*)?(/|$)"
"""A URL whose host is an IPv4 address in its usual form."""
_GROUP = "[0-9A-Fa-f]{1,4}"
_NOT_ZERO = "0{0,3}[1-9A-Fa-f][0-9A-Fa-f]{0,3}"
_ZEROS = "(0{1,4}:)"
MAPPED_HOST_PATTERN = (
    rf"^[^/]*//[\[]([0:]*:[Ff]{{4}}:{_GROUP}:{_GROUP}|{_ZEROS}{{5}}[Ff]{{4}}:{_GROUP}::|"
    rf"[0:]*{_NOT_ZERO}:{_GROUP}|{_ZEROS}{{6}}{_NOT_ZERO}::)[\]]"
)
"""A URL whose host is an IPv4 address written as IPv6, mapped or compatible."""

_URL = re.compile(URL_PATTERN)
_PARTS = re.compile(r"(?P<scheme>[^:]+)://(?P<host>\[[^\]]*\]|[^:/\[]+)(:(?P<port>[0-9]+))?(?P<path>.*)")
_HOST_NAME = re.compile(_NAME)
_URL_PATH = re.compile(_PATH)
_NUMBER = re.compile(rf"(^|[.]){_LAST_NUMBER}$")
_DEFAULT_PORTS = {"http": 80, "https": 443}
MOST_HOST = 253
_SHOWN = 200
"""Characters of a wrong value that a message repeats."""


class EndpointError(ValueError):
    """What was given is no address that can be judged; the message names the value and the cure."""


@dataclass(frozen=True)
class Endpoint:
    """What a connection is made to. Two are equal where they lead to the same.

    Attributes:
        scheme: ``http`` or ``https``.
        host: a name in lower case, or an IP address as ``ipaddress`` writes it, without brackets.
        port: 1 to 65535.
    """

    scheme: str
    host: str
    port: int

    @cached_property
    def address(self) -> IPAddress | None:
        """The host, if it is an IP address."""
        return ip_address(self.host)

    @property
    def authority(self) -> str:
        """``host:port``, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """A URL in parts; ``path`` is empty or begins with ``/``, and goes as it stands."""

    endpoint: Endpoint
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``http://host:port/path``; the port may be left out.

        Raises:
            EndpointError: it is none, or its host or port is in a form that could be read in two ways.
        """
        parts = _PARTS.fullmatch(text) if _URL.fullmatch(text) else None
        if parts is None:
            raise EndpointError(
                f"{_shown(text)} is not an http:// or https:// URL with a host in ASCII (a name beyond ASCII as "
                "xn--name) and no query or credentials: write e.g. http://10.0.0.1:8265"
            )
        scheme = parts["scheme"].lower()
        port = parse_port(parts["port"]) if parts["port"] else _DEFAULT_PORTS[scheme]
        return cls(Endpoint(scheme, parse_host(parts["host"]), port), parts["path"])

    def below(self, path: str) -> HttpUrl:
        """The URL of ``path`` below this one; EndpointError if that is no path, so that it could change the host."""
        if not path.startswith("/") or not _URL_PATH.fullmatch(path):
            raise EndpointError(f"{_shown(path)} is not a path of a URL")
        return HttpUrl(self.endpoint, self.path.rstrip("/") + path)

    def __str__(self) -> str:
        return f"{self.endpoint}{self.path}"


def parse_host(text: str) -> str:
    """A host as it stands in a URL, in the one form of ``Endpoint.host``; EndpointError if it has none."""
    if text.startswith("["):
        return str(_ipv6(text))
    if len(text) > MOST_HOST or not _HOST_NAME.fullmatch(text):
        raise EndpointError(
            f"{_shown(text)} is not a host: write a name of ASCII letters, digits, '-' and '_' without a dot at its "
            "end, an IPv4 address, or an IPv6 address in brackets"
        )
    if _NUMBER.search(text) and ip_address(text) is None:
        raise EndpointError(
            f"{_shown(text)} would be read as an IPv4 address in a short, octal, decimal or hexadecimal form: write "
            "the four decimal numbers, such as 10.0.0.1"
        )
    return text.lower()


def parse_port(text: str) -> int:
    """A TCP port; EndpointError unless it is 1 to 65535."""
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise EndpointError(f"{_shown(text)} is not a port: write a number from 1 to 65535")
    return int(text)


def parse_authority(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[IPv6]:port``; EndpointError if it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise EndpointError(f"{_shown(text)} is not host:port: write e.g. 10.0.0.1:8265")
    return parse_host(host), parse_port(port)


def ip_address(text: str) -> IPAddress | None:
    """The address that ``text`` is, in the usual form; None if it is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _ipv6(text: str) -> ipaddress.IPv6Address:
    address = ip_address(text[1:-1]) if re.fullmatch(r"\[[0-9A-Fa-f:]+\]", text) else None
    if not isinstance(address, ipaddress.IPv6Address):
        raise EndpointError(f"{_shown(text)} is not an IPv6 address in brackets, without a zone: write e.g. [fd00::1]")
    if address.ipv4_mapped is not None:
        raise EndpointError(f"{_shown(text)} is an IPv4 address written as IPv6: write {address.ipv4_mapped}")
    if 0xFFFF < int(address) <= 0xFFFFFFFF:
        plain = ipaddress.IPv4Address(int(address))
        raise EndpointError(f"{_shown(text)} is an IPv4 address written as IPv6: write {plain}")
    return address


def _shown(text: str) -> str:
    """Quoted on one line, and not at any length."""
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
