"""A deployment asked for its load, over HTTP with an API key. Imported when it is: HTTP takes a while to load."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_operator.kubectl.exits import NotThereError, PluginError, RightError, UnreachableError, UsageError
from moe_operator.kubectl.view import shown

ANSWER_SECONDS = 15.0
MOST_BYTES = 1 << 16
_MOST_KEY = 8192


def ask(url: str, key_file: Path | None) -> Mapping[str, Any]:
    """What the deployment whose API is at ``url`` (``status.url``) tells of its load now.

    Raises:
        UsageError: no such URL or key.
        RightError: the key is not taken.
        NotThereError: nothing there tells a load.
        UnreachableError: no answer.
    """
    if not _is_base(url):
        raise UsageError(f"--url {url[:200]!a} must be as status.url is, such as http://127.0.0.1:8000/default/tiny/v1")
    headers = {"Authorization": f"Bearer {_key(key_file)}"} if key_file else {}
    address = f"{url.rstrip('/')}/load"
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(address, headers=headers), timeout=ANSWER_SECONDS) as answer:
            text = answer.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(address, error) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnreachableError(f"{shown(address)} does not answer: {shown(str(error))}") from error
    try:
        told = json.loads(text) if len(text) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise PluginError(f"{shown(address)}: what answers is no API of moe-operator: name its base URL, status.url")
    return told


def _is_base(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and " " not in url
    return bool(named) and plain and parts.username is None and not parts.query and not parts.fragment


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a key goes to the address that was named, and to no other."""

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
    except (OSError, ValueError, LookupError, TypeError, RecursionError, http.client.HTTPException):
        return f"HTTP {error.code}"
