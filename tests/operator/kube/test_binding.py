"""Which addresses an annotation allows a token to be sent to."""

import pytest

from moe_operator.endpoint import HttpUrl
from moe_operator.kube.secrets import is_bound

RAY = "http://ray.example.org:8265"


@pytest.mark.parametrize(
    ("addresses", "url", "bound"),
    [
        ("ray.example.org:8265", RAY, True),
        ("RAY.Example.ORG:8265", RAY, True),
        ("other:1, ray.example.org:8265 ,another:2", RAY, True),
        ("http://ray.example.org:8265", RAY, True),
        ("HTTP://ray.example.org:8265/", RAY, True),
        ("http://ray.example.org", "http://ray.example.org", True),
        ("ray.example.org:80", "http://ray.example.org/ray", True),
        ("ray.example.org:443", "https://ray.example.org", True),
        ("https://ray.example.org", "https://ray.example.org:443", True),
        ("ray.example.org:8265", "https://ray.example.org:8265", True),
        ("[FD00:0::1]:8265", "http://[fd00::1]:8265", True),
        ("", RAY, False),
        (",", RAY, False),
        ("*", RAY, False),
        ("*.example.org:8265", RAY, False),
        ("ray.example.org", RAY, False),
        ("ray.example.org:*", RAY, False),
        ("ray.example.org:8266", RAY, False),
        ("example.org:8265", RAY, False),
        ("ray.example.org:8265.evil.org", RAY, False),
        ("https://ray.example.org:8265", RAY, False),
        ("http://ray.example.org:8265", "https://ray.example.org:8265", False),
        ("http://ray.example.org:8265/team", RAY, False),
        ("http://user@ray.example.org:8265", RAY, False),
        ("ray.example.org:8265;other:1", RAY, False),
        ("ray.example.org:8265 other:1", RAY, False),
        ("127.1:8265", "http://127.0.0.1:8265", False),
        ("ｒay.example.org:8265", RAY, False),
        ("10.0.0.0/8", "http://10.0.0.1:80", False),
    ],
)
def test_scheme_host_and_port_are_compared(addresses: str, url: str, bound: bool) -> None:
    assert is_bound(addresses, HttpUrl.parse(url).endpoint) == bound
