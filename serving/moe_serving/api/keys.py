"""Keys that clients show: known here by their SHA-256 only."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from fastapi import Request

from moe_serving.api.errors import AuthenticationError

_TOLD_APART = 12
"""Digits of a digest that tell a few keys apart, and help nobody to guess one."""


def check_key(request: Request, digests: Sequence[str]) -> str:
    """Compare the bearer token of a request with the keys allowed, in a time that tells nothing about them.

    Returns:
        What tells the key from others.

    Raises:
        AuthenticationError: no token, or none of these keys.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthenticationError("no API key: send it as 'Authorization: Bearer <key>'")
    shown = hashlib.sha256(token.strip().encode()).hexdigest()
    if not any(hmac.compare_digest(shown.encode(), digest.lower().encode()) for digest in digests):
        raise AuthenticationError("incorrect API key; ask whoever runs this server for one")
    return shown[:_TOLD_APART]
