"""One reading of a URL: what is taken has one meaning, in every library, and what has two is refused."""

import ipaddress
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from moe_operator.endpoint import Endpoint, EndpointError, HttpUrl, parse_authority, parse_host

TAKEN = [
    ("http://ray", Endpoint("http", "ray", 80), ""),
    ("https://ray/", Endpoint("https", "ray", 443), "/"),
    ("HTTP://Ray.Example.ORG:8265/a/b", Endpoint("http", "ray.example.org", 8265), "/a/b"),
    ("http://xn--bcher-kva.example:1", Endpoint("http", "xn--bcher-kva.example", 1), ""),
    ("http://10.0.0.1:65535", Endpoint("http", "10.0.0.1", 65535), ""),
    ("http://[FD00:0::1]:8265/ray", Endpoint("http", "fd00::1", 8265), "/ray"),
    ("http://0x.example:1", Endpoint("http", "0x.example", 1), ""),
]


@pytest.mark.parametrize(("text", "endpoint", "path"), TAKEN)
def test_what_is_taken(text: str, endpoint: Endpoint, path: str) -> None:
    url = HttpUrl.parse(text)
    assert (url.endpoint, url.path) == (endpoint, path)
    assert HttpUrl.parse(str(url)) == url
    assert parse_authority(endpoint.authority) == (endpoint.host, endpoint.port)


# 127.0.0.1 and the like, in every spelling that some program reads as that; each must be refused, or be what it says.
SPELLINGS_OF_LOOPBACK = [
    "①②⑦.0.0.1",
    "127。0。0。1",
    "127．0．0．1",
    "127｡0｡0｡1",
    "１２７.0.0.1",
    "𝟏𝟐𝟕.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0X7F000001",
    "0177.0.0.1",
    "0177.1",
    "0x7f.0.0.1",
    "0x7f.1",
    "127.0.0.0x1",
    "0x7F.0X0.00.1",
    "127.000.000.001",
    "00127.0.0.1",
    "127.0.0.1.",
    "127.0.0.1..",
    "%31%32%37.0.0.1",
    "127.0.0.1%00",
    "127.0.0.1%",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::7f00:1]",
    "[0:0::7F00:0001]",
    "[0:0:0:0:0:0:7f00::]",
    "[0:0:0:0:0:FFFF:7f00:0001]",
    "[::127.0.0.1]",
    "[::1%lo]",
    "[::1%25lo]",
    "[fe80::1%25eth0]",
    "::1",
    "0",
    "0x0",
    "00000000",
    "0.0",
    "4294967295",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "ｌocalhost",
    "localhoſt",
    "localhost.",
    "user@127.0.0.1",
    "user:word@127.0.0.1",
    "ray.example.org#@127.0.0.1",
    "ray.example.org\\@127.0.0.1",
    "ray.example.org?@127.0.0.1",
    "127.0.0.1\n",
    "\t127.0.0.1",
    "127.0.0.1 ",
    "127.0.0.1\x00.example.org",
    "l\u00adocalhost",
    "127.0.0.1\u200b",
]


@pytest.mark.parametrize("host", SPELLINGS_OF_LOOPBACK, ids=ascii)
def test_a_host_that_is_read_in_two_ways_is_refused(host: str) -> None:
    with pytest.raises(EndpointError):
        HttpUrl.parse(f"http://{host}:8265/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ray:8265",
        "//ray",
        "ftp://ray",
        "file:///etc/passwd",
        "http:ray",
        "http:///path",
        "http://",
        "http://[",
        "http://[]",
        "http://ray:0",
        "http://ray:65536",
        "http://ray:99999",
        "http://ray:-1",
        "http://ray:+80",
        "http://ray:８０",
        "http://ray:",
        "http://ray:80:80",
        "http://ray/?a=b",
        "http://ray/#a",
        "http://ray/a b",
        "http://ray/%",
        "http://ray/é",
        "http://ray/\r\nHost: other",
        f"http://{'a' * 64}",
        f"http://{'a.' * 127}a",
    ],
    ids=ascii,
)
def test_what_is_no_url_is_refused_with_a_cure(text: str) -> None:
    with pytest.raises(EndpointError, match="write"):
        HttpUrl.parse(text)


@pytest.mark.parametrize("path", ["", "x", "@other/", "80/x", "/a?b", "/a#b", "/é", "/a b", "//a\n", ":1/x", "/%zz"])
def test_a_path_cannot_change_where_a_request_goes(path: str) -> None:
    with pytest.raises(EndpointError, match="not a path"):
        HttpUrl.parse("http://ray:80").below(path)


def test_a_path_goes_below_the_one_that_is_there() -> None:
    assert str(HttpUrl.parse("http://ray:80/proxy/").below("/api/")) == "http://ray:80/proxy/api/"


def test_a_wrong_value_is_shown_on_one_line_and_not_at_any_length() -> None:
    with pytest.raises(EndpointError) as caught:
        HttpUrl.parse("http://\n" + "é" * 5000)
    assert len(str(caught.value)) < 1500
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@given(st.text("0123456789abcdefxX.", min_size=1, max_size=16))
def test_what_the_c_library_reads_as_an_address_is_taken_in_one_form_only(host: str) -> None:
    try:
        read = str(ipaddress.IPv4Address(socket.inet_aton(host)))
    except OSError:
        return
    try:
        assert parse_host(host) == host == read
    except EndpointError:
        assert host != read


# A slash would end the host, and what follows be a path.
@given(
    (st.text(min_size=1, max_size=24) | st.from_regex(r"[a-z0-9\[\]:.%-]{1,24}")).filter(lambda host: "/" not in host)
)
def test_libraries_read_what_is_taken_as_it_is_written(host: str) -> None:
    try:
        url = HttpUrl.parse(f"http://{host}:81/x")
    except EndpointError:
        return
    for read in (URL(str(url)), URL(str(url), encoded=True)):
        assert (read.raw_host, read.port, read.raw_path) == (url.endpoint.host, 81, "/x")
    assert re.fullmatch(r"[a-z0-9_.:-]+", url.endpoint.host)
