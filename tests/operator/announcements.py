"""What the operator tells the activator of a deployment ``team/tiny``, and keys that open it or do not."""

import hashlib
from typing import Any

from moe_operator.activator.announcement import Announcement

KEY, OTHER = "a" * 40, "b" * 40


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def announcement(name: str = "tiny", namespace: str = "team", **more: Any) -> Announcement:
    usual = {"route": f"/{namespace}/{name}", "open": False, "keys": (digest(KEY),), "shards": 2, "held": True}
    return Announcement(namespace=namespace, name=name, **usual | more)
