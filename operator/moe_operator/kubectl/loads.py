"""Where shards and experts are busy: from ``status.load``, or from the deployment itself, which tells it in the same
form."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from moe_operator.kubectl.exits import NotThereError, PluginError, RightError, UnreachableError, UsageError
from moe_operator.kubectl.view import moment, shown

ANSWER_SECONDS = 15.0
MOST_BYTES = 1 << 16
_MOST_KEY = 8192
_PARTS = 10_000
"""Shares are told in so many parts."""
_EXPERT = re.compile(r"(\d{1,4})/(\d{1,5}) (\d{1,5})")
_MOST_SHARDS, _MOST_BANDS, _MOST_BUSY = 1024, 16, 10


class Busy(NamedTuple):
    """An expert that gets much of its layer's traffic; ``share``: 0 to 1."""

    layer: int
    expert: int
    share: float


class Band(NamedTuple):
    """The busiest experts of some neighbouring layers."""

    layers: str
    experts: tuple[Busy, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Attributes:
    time: of the counts; None for now.
    shares: of each shard, 0 to 1.
    """

    time: datetime | None
    shares: tuple[float, ...]
    bands: tuple[Band, ...]

    @property
    def busiest(self) -> set[tuple[int, int]]:
        """(layer, expert) of all that are named."""
        return {(each.layer, each.expert) for band in self.bands for each in band.experts}


def read_load(raw: Any) -> Load | None:
    """As the status and the deployment have it; None where that is no load. What makes no sense in it is left out."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("shards"), str):
        return None
    numbers = raw["shards"].split(" ", _MOST_SHARDS)[:_MOST_SHARDS]
    shares = tuple(int(each) / _PARTS for each in numbers if each.isascii() and each.isdecimal() and len(each) <= 5)
    time = raw.get("time")
    return Load(moment(time) if isinstance(time, str) else None, shares, tuple(_bands(raw.get("bands"))))


def _bands(raw: Any) -> Iterator[Band]:
    for each in raw[:_MOST_BANDS] if isinstance(raw, list) else ():
        if isinstance(each, Mapping) and isinstance(each.get("experts"), list):
            found = (_EXPERT.fullmatch(text) for text in each["experts"][:_MOST_BUSY] if isinstance(text, str))
            busy = tuple(Busy(int(at[1]), int(at[2]), int(at[3]) / _PARTS) for at in found if at)
            yield Band(shown(str(each.get("layers", "")))[:16], busy)


def ask(url: str, key_file: Path | None) -> Mapping[str, Any]:
    """What the deployment whose API is at ``url`` (``status.url``) tells of its load now.

    Raises:
        UsageError: no such URL or key.
        RightError: the key is not taken.
        NotThereError: nothing there tells a load.
        UnreachableError: no answer.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--url {url[:200]!a} must be as status.url is, such as http://127.0.0.1:8000/default/tiny/v1")
    headers = {"Authorization": f"Bearer {_key(key_file)}"} if key_file else {}
    address = f"{url.rstrip('/')}/load"
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(urllib.request.Request(address, headers=headers), timeout=ANSWER_SECONDS) as answer:
            text = answer.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(address, error) from None
    except (OSError, ValueError) as error:
        raise UnreachableError(f"{shown(address)} does not answer: {shown(str(error))}") from error
    try:
        told = json.loads(text) if len(text) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise PluginError(f"{shown(address)}: what answers is no API of moe-operator: name its base URL, status.url")
    return told


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key goes to the address that was named, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _key(path: Path) -> str:
    try:
        with path.open("rb") as file:
            key = file.read(_MOST_KEY + 1).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"--api-key-file {str(path)!a} cannot be read: {shown(str(error))}") from error
    if not key or len(key) > _MOST_KEY or not key.isprintable():
        raise UsageError(f"--api-key-file {str(path)!a} must hold one API key, on one line")
    return key


def _refusal(address: str, error: urllib.error.HTTPError) -> PluginError:
    where, words = shown(address), _words(error)
    if error.code in (401, 403):
        return RightError(f"{where} does not let you in ({words}): name an API key's file with --api-key-file")
    if error.code in (404, 405) or 300 <= error.code < 400:
        return NotThereError(f"{where} tells no load ({error.code}): name the deployment's base URL, status.url")
    if error.code >= 500 or error.code == 429:
        return UnreachableError(f"{where} cannot tell its load now: {words}")
    return PluginError(f"{where}: {words}")


def _words(error: urllib.error.HTTPError) -> str:
    try:
        return shown(str(json.loads(error.read(MOST_BYTES))["error"]["message"]))[:500]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return f"HTTP {error.code}"
