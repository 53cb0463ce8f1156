"""Where the operator may connect."""

import ipaddress

import pytest

from moe_operator.backends.addresses import AddressPattern, AddressPolicy
from moe_operator.backends.errors import RayAddressRefusedError


def policy(*patterns: str, in_cluster: bool = False) -> AddressPolicy:
    return AddressPolicy(tuple(map(AddressPattern.parse, patterns)), in_cluster)


def allows(bound: AddressPolicy, url: str) -> bool:
    try:
        bound.check(url)
    except RayAddressRefusedError:
        return False
    return True


LOCAL = [
    "http://127.0.0.1:8265",
    "http://127.9.9.9:8265",
    "http://[::1]:8265",
    "http://[::ffff:127.0.0.1]:8265",
    "http://169.254.169.254/",
    "http://[fe80::1]:8265",
    "http://0.0.0.0:8265",
]


@pytest.mark.parametrize("url", LOCAL)
def test_local_addresses_are_refused_inside_a_cluster_only(url: str) -> None:
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
        ([], "http://[", False),
    ],
)
def test_patterns_bound_what_is_allowed(patterns: list[str], url: str, allowed: bool) -> None:
    assert allows(policy(*patterns, in_cluster=True), url) == allowed


def test_a_name_is_judged_by_what_it_resolves_to() -> None:
    loopback, inside, outside = map(ipaddress.ip_address, ("127.0.0.1", "10.0.0.9", "192.0.2.1"))
    with pytest.raises(RayAddressRefusedError, match="own pod or node"):
        policy(in_cluster=True).check_resolved("harmless.example.org", 80, loopback)
    policy("harmless.example.org", in_cluster=True).check_resolved("harmless.example.org", 80, loopback)

    network = policy("10.0.0.0/8", in_cluster=True)
    network.check("http://named.example.org:8265")
    network.check_resolved("named.example.org", 8265, inside)
    with pytest.raises(RayAddressRefusedError, match=r"10\.0\.0\.0/8"):
        network.check_resolved("named.example.org", 8265, outside)


@pytest.mark.parametrize("text", ["", ":8265", "host:port", "10.0.0.0/99", "http://host"])
def test_what_is_no_pattern_is_refused_at_start(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        AddressPattern.parse(text)
