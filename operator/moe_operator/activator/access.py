"""Whose key opens a deployment. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from moe_operator.activator.announcement import Announcement


def presented(authorization: str) -> str:
    """The key in a header ``Authorization``; empty where there is none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def opens(key: str, deployment: Announcement) -> bool:
    """Whether ``key`` does, in a time that tells nothing of those there are."""
    if deployment.open:
        return True
    shown = hashlib.sha256(key.encode()).hexdigest().encode()
    found = False
    for digest in deployment.keys:
        found |= hmac.compare_digest(shown, digest.encode())
    return found and bool(key)


def admitting(key: str, asked: Sequence[Announcement]) -> list[Announcement]:
    """Those of ``asked`` that ``key`` opens. Beside one that asks for keys an open one gets nothing: what is sent may
    be for the other, with a key that is not known to be its own (yet, or any more)."""
    closed = [each for each in asked if not each.open]
    return [each for each in closed or asked if opens(key, each)]
