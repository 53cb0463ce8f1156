"""Where the operator may connect."""

import ipaddress
import re

import pytest

from moe_operator.endpoint import Endpoint, HttpUrl
from moe_operator.runtimes.errors import RayAddressRefusedError
from moe_operator.runtimes.http.addresses import AddressPattern, AddressPolicy


def policy(*patterns: str, in_cluster: bool = False) -> AddressPolicy:
    return AddressPolicy(tuple(map(AddressPattern.parse, patterns)), in_cluster)


def allows(bound: AddressPolicy, url: str) -> bool:
    try:
        bound.check(HttpUrl.parse(url).endpoint)
    except RayAddressRefusedError:
        return False
    return True


def resolves_to(bound: AddressPolicy, host: str, address: str, port: int = 80) -> None:
    bound.check_resolved(Endpoint("http", host, port), ipaddress.ip_address(address))


LOCAL = [
    "127.0.0.1",
    "127.9.9.9",
    "169.254.169.254",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "::127.0.0.1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::127.0.0.1",
    "64:ff9b:1:0:7f:0:100:0",
    "2001:0:1:2:3:4:80ff:fffe",
]
ELSEWHERE = [
    "10.0.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "8.8.8.8",
    "fd00::1",
    "2001:db8::1",
    "::ffff:10.0.0.1",
    "2002:a00:1::",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::10.0.0.1",
]


@pytest.mark.parametrize("address", LOCAL)
def test_local_addresses_are_refused_inside_a_cluster_only(address: str) -> None:
    with pytest.raises(RayAddressRefusedError, match="own pod or node"):
        resolves_to(policy(in_cluster=True), "ray", address)
    resolves_to(policy(), "ray", address)


@pytest.mark.parametrize("address", ELSEWHERE)
def test_others_are_not(address: str) -> None:
    resolves_to(policy(in_cluster=True), "ray", address)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "http://[::1]:1", "http://[2002:7f00:1::]:1", "http://0.0.0.0:1"])
def test_an_address_in_a_url_is_judged_before_anything_is_resolved(url: str) -> None:
    assert not allows(policy(in_cluster=True), url)
    assert allows(policy(), url)


@pytest.mark.parametrize(
    ("patterns", "url", "allowed"),
    [
        ([], "http://ray.example.org:8265", True),
        ([], "http://10.1.2.3:8265", True),
        (["ray.example.org"], "http://ray.example.org:8265", True),
        (["ray.example.org"], "http://RAY.example.org:1", True),
        (["ray.example.org"], "http://other.example.org:8265", False),
        (["ray.example.org:8265"], "http://ray.example.org:8265", True),
        (["ray.example.org:8265"], "http://ray.example.org:8266", False),
        (["ray.example.org:443"], "https://ray.example.org", True),
        (["*.ray.svc"], "http://a.ray.svc:8265", True),
        (["*.ray.svc"], "http://a.ray.svc.evil.org:8265", False),
        (["10.0.0.0/8"], "http://10.1.2.3:8265", True),
        (["10.0.0.0/8"], "http://11.1.2.3:8265", False),
        (["10.1.2.3"], "http://10.1.2.3:8265", True),
        (["[fd00::7]:8265"], "http://[fd00::7]:8265", True),
        (["[fd00::7]:8265"], "http://[fd00::7]:8266", False),
        (["fd00::/8"], "http://[fd00::7]:8265", True),
        (["127.0.0.1"], "http://127.0.0.1:8265", True),
        (["127.0.0.1:8265"], "http://127.0.0.1:8000", False),
        (["ray.example.org"], "http://127.0.0.1:8265", False),
        (["10.0.0.0/8"], "http://[::1]:8265", False),
        (["FD00::7"], "http://[fd00:0::7]:8265", True),
        (["*"], "http://127.0.0.1:8265", False),
        (["127.0.0.*"], "http://127.0.0.1:8265", False),
        (["*", "127.0.0.0/8"], "http://127.0.0.1:8265", True),
        (["*", "localhost"], "http://localhost:8265", True),
    ],
)
def test_patterns_bound_what_is_allowed(patterns: list[str], url: str, allowed: bool) -> None:
    assert allows(policy(*patterns, in_cluster=True), url) == allowed


def test_a_name_is_judged_by_what_it_resolves_to() -> None:
    with pytest.raises(RayAddressRefusedError, match="own pod or node"):
        resolves_to(policy(in_cluster=True), "harmless.example.org", "127.0.0.1")
    resolves_to(policy("harmless.example.org", in_cluster=True), "harmless.example.org", "127.0.0.1")

    network = policy("10.0.0.0/8", in_cluster=True)
    assert allows(network, "http://named.example.org:8265")
    resolves_to(network, "named.example.org", "10.0.0.9")
    resolves_to(network, "named.example.org", "::ffff:10.0.0.9")
    with pytest.raises(RayAddressRefusedError, match=r"10\.0\.0\.0/8"):
        resolves_to(network, "named.example.org", "192.0.2.1")


def test_a_pattern_of_names_allows_no_local_address() -> None:
    """A tenant may have a name of a Service lead anywhere."""
    bound = policy("*.svc", in_cluster=True)
    resolves_to(bound, "ray.team.svc", "10.0.0.9")
    with pytest.raises(RayAddressRefusedError, match="own pod or node"):
        resolves_to(bound, "ray.team.svc", "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a host"),
        (":8265", "not a host"),
        ("host:port", "'port' is not a port"),
        ("host:0", "from 1 to 65535"),
        ("host:65536", "from 1 to 65535"),
        ("host:", "not a port"),
        ("10.0.0.0/99", "not a network"),
        ("10.1.2.3/8", "write 10.0.0.0/8"),
        ("fd00::7/8", "write fd00::/8"),
        ("10.0.0.0/255.0.0.0", "write 10.0.0.0/8"),
        ("http://host", "no scheme"),
        ("127。0。0。1", "not a host"),
        ("bücher.example", "ASCII"),
        ("127.1", "four decimal numbers"),
        ("0x7f.1:80", "four decimal numbers"),
        ("[::ffff:127.0.0.1]:80", "not an IPv6 address"),
        ("::ffff:7f00:1", "write 127.0.0.1"),
        ("fe80::1%eth0", "not a host"),
        ("[fd00::1", "not"),
        ("*.ray.svc.", "write e.g. *.ray.svc"),
        ("ray.[ab].svc", "not a host"),
    ],
)
def test_what_is_no_pattern_is_refused_at_start(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        AddressPattern.parse(text)
