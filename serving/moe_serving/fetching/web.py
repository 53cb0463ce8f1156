"""Files over HTTP, with bounds: what may be connected to, how often it is redirected, and how many bytes come.

Addresses may carry a signature, which lets in whoever has it: neither the library's log nor our messages have one.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2

from moe_contract.local_addresses import forms, is_local, plain

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs whole addresses

Method = Literal["GET", "HEAD"]
Request = Callable[[Method], tuple[str, Mapping[str, str]]]
"""Address and headers of a request that is made now."""

_TIMEOUT = httpx2.Timeout(60.0, connect=10.0)
_MOST_REDIRECTS = 5
_FRUITLESS, _TRIES = 4, 100
"""Requests in a row that brought no byte, and requests for one file at all, before it is given up."""
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "fd00:ec2::254", "168.63.129.16")))
"""Services of clouds that tell a machine its credentials, beside those at link-local addresses."""

NO_RANGES = frozenset({400, 405, 416, 501})
"""Statuses of answers to a request for a part, by servers that give none, beside 200 with the whole."""

LOOPBACK = "MOE_MODEL_LOOPBACK"
"""Set to 1 by who runs the node: models may be kept on it."""

again_after = time.sleep


class WebError(Exception):
    """What is in the way, in words that go on after the file's name.

    Attributes:
        status: of the answer; 0 where there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Web:
    """A client. Its requests raise ``WebError``; of files, ``OSError`` too."""

    def __init__(self) -> None:
        self._client = httpx2.Client(timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"})

    def size(self, request: Request) -> int:
        """Bytes of a file."""
        with self._answer(request, "HEAD") as answer:
            return _length(answer)

    def read(self, request: Request, most: int) -> bytes:
        """A small file."""
        with self._answer(request, "GET") as answer:
            content = b""
            for chunk in answer.iter_raw():
                content += chunk
                if len(content) > most:
                    raise WebError(f"is larger than {most} bytes")
            return content

    def read_range(self, request: Request, begin: int, end: int) -> bytes | None:
        """Bytes ``[begin, end)`` of a file that has so many; None of a server that knows no ranges."""
        try:
            with self._answer(request, "GET", {"Range": f"bytes={begin}-{end - 1}"}) as answer:
                return range_of(answer, begin, end)
        except WebError as error:
            if error.status in NO_RANGES:
                return None
            raise

    def fetch(self, request: Request, part: Path, size: int, heard: Callable[[int], None]) -> None:
        """Into ``part``, going on after what is there, until it has ``size`` bytes; what is longer is another file."""
        part.touch()
        if part.stat().st_size > size:
            os.truncate(part, 0)
        fruitless = 0
        for _ in range(_TRIES):
            there = part.stat().st_size
            if there == size:
                break
            why = self._append(request, part, there, size, heard)
            gained = part.stat().st_size > there
            fruitless = 0 if gained else fruitless + 1
            if fruitless >= _FRUITLESS:
                raise WebError(f"is cut short: {part.stat().st_size} of {size} bytes came ({why})")
            if fruitless:
                again_after(0.5 * 2**fruitless)
        if part.stat().st_size != size:
            raise WebError(f"came with {part.stat().st_size} bytes after {_TRIES} requests, {size} were told of")

    def _append(self, request: Request, part: Path, there: int, size: int, heard: Callable[[int], None]) -> str:
        """As much as one request brings; what ended it."""
        try:
            with self._answer(request, "GET", {"Range": f"bytes={there}-"} if there else {}) as answer:
                goes_on = answer.status_code == httpx2.codes.PARTIAL_CONTENT
                if goes_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {there}-"):
                    raise WebError(f"came with another range than was asked for, {there}-")
                with part.open("r+b") as stream:
                    stream.truncate(there if goes_on else 0)
                    stream.seek(0, 2)
                    for chunk in answer.iter_raw():
                        if stream.tell() + len(chunk) > size:
                            raise WebError(f"is longer than the {size} bytes that were told of")
                        stream.write(chunk)
                        heard(stream.tell())
            return "the answer ended"
        except httpx2.TransportError as error:
            return type(error).__name__

    @contextmanager
    def _answer(self, request: Request, method: Method, more: Mapping[str, str] = {}) -> Iterator[httpx2.Response]:
        url, headers = request(method)
        asked = self._client.build_request(method, url, headers={**headers, **more})
        loopback = os.environ.get(LOOPBACK) == "1" and _is_loopback(asked.url.host)  # redirected from there alone
        answer = self._send(asked, loopback)
        try:
            for _ in range(_MOST_REDIRECTS):
                if answer.next_request is None:
                    break
                asked, before = answer.next_request, asked
                answer.close()
                if (before.url.scheme, asked.url.scheme) == ("https", "http"):
                    raise WebError(f"is redirected from https to http, to {asked.url.host}: that is not followed")
                answer = self._send(asked, loopback)
            if answer.next_request is not None:
                raise WebError(f"is redirected more than {_MOST_REDIRECTS} times")
            if not answer.is_success:
                raise WebError(f"is answered with {answer.status_code} {answer.reason_phrase:.100}", answer.status_code)
            yield answer
        finally:
            answer.close()

    def _send(self, request: httpx2.Request, loopback: bool) -> httpx2.Response:
        _judge_host(request.url, loopback)
        request.extensions = {**request.extensions, "trace": _judge_connection(request.url, loopback)}
        return self._client.send(request, stream=True)


def range_of(answer: httpx2.Response, begin: int, end: int) -> bytes | None:
    """What came of a request for bytes ``[begin, end)``; None where it was not heeded.

    Raises:
        WebError: other bytes than were asked for, or another number of them.
    """
    if answer.status_code != httpx2.codes.PARTIAL_CONTENT:
        return None
    if not answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-{end - 1}/"):
        raise WebError(f"came with another range than was asked for, {begin}-{end - 1}")
    content = b""
    for chunk in answer.iter_raw():
        content += chunk
        if len(content) > end - begin:
            break
    if len(content) != end - begin:
        raise WebError(f"came with another number of bytes than were asked for, {begin}-{end - 1}")
    return content


def without_query(error: Exception) -> str:
    """What an error says, without what follows the path of an address."""
    return re.sub(r"\?[^\s'\"<>]*", "?…", str(error))


def refused(address: str, loopback: bool = False) -> str | None:
    """Why an IP address is not connected to: what only this node may ask must not be asked on behalf of others.

    ``loopback``: whether that may be, but for this.
    """
    ip = plain(ipaddress.ip_address(address.partition("%")[0]))
    if ip.is_loopback and loopback:
        return None
    if is_local(ip) or not _METADATA.isdisjoint(forms(ip)):
        return f"{ip}, an address that nodes have for themselves (loopback, link-local, a cloud's metadata)"
    return None


def _judge_host(url: httpx2.URL, loopback: bool) -> None:
    """By name, also where a proxy connects."""
    try:
        port = url.port or {"http": 80}.get(url.scheme, 443)
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return  # a proxy may know it; else the request says so
    for *_, address in found:
        _judge(url, str(address[0]), loopback)


def _judge_connection(url: httpx2.URL, loopback: bool) -> Callable[[str, dict[str, Any]], None]:
    """What the library calls at each step (its extension ``trace``): before a byte is sent, the address at the other
    end is judged, which the name may have come to mean since. A proxy's is for who runs the node to say."""
    is_direct = False

    def judge(step: str, info: dict[str, Any]) -> None:
        nonlocal is_direct
        if step == "connection.connect_tcp.started":
            is_direct = info["host"] == url.raw_host.decode("ascii")
        elif step == "connection.connect_tcp.complete" and is_direct:
            stream = info["return_value"]
            try:
                _judge(url, str(stream.get_extra_info("server_addr")[0]), loopback)
            except BaseException:
                stream.close()
                raise

    return judge


def _judge(url: httpx2.URL, address: str, loopback: bool) -> None:
    if why := refused(address, loopback):
        raise WebError(f"leads to {url.host}, which is {why}")


def _is_loopback(host: str) -> bool:
    """As written, whatever a name means."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _length(answer: httpx2.Response) -> int:
    told = answer.headers.get("Content-Length", "")
    if not (told.isascii() and told.isdecimal() and len(told) <= 16):
        raise WebError("is answered without Content-Length, so that its size is not known")
    return int(told)
