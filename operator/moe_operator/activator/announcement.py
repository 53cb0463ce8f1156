"""What the operator tells the activator of a deployment: an annotation of the EndpointSlice that leads requests there.

So the activator reads neither Secrets nor MoEDeployments. Keys are told as their SHA-256, as the data plane is. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_operator.api.names import ANNOTATION_ACTIVATION, LABEL_DEPLOYMENT, reserved_for

MOST_KEYS = 3000
"""Told of one deployment: of 67 bytes each, where all annotations of an object may have 256 KiB."""
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Announcement:
    """One deployment.

    Attributes:
        route: path below which its API answers, without a slash at its end; empty for the root.
        open: whether it asks for no key.
        keys: SHA-256 hex digests of the keys that it takes.
        shards: that it is woken to.
        held: whether requests are led to the activator; else to the deployment itself.
    """

    namespace: str
    name: str
    route: str
    open: bool
    keys: tuple[str, ...]
    shards: int
    held: bool

    @property
    def key(self) -> str:
        """``namespace/name`` of the MoEDeployment."""
        return f"{self.namespace}/{self.name}"

    def annotation(self) -> str:
        """As text."""
        told = {
            "route": self.route,
            "open": self.open,
            "keys": list(self.keys),
            "shards": self.shards,
            "held": self.held,
        }
        return json.dumps(told, separators=(",", ":"))


def announced(live: Mapping[str, Any]) -> Announcement | None:
    """What an EndpointSlice tells; None where it tells nothing, or what cannot be: whoever may write one may write
    anything there, and a deployment that sleeps is announced with whatever ``routePrefix`` it has."""
    metadata = live["metadata"]
    try:
        told = json.loads((metadata.get("annotations") or {})[ANNOTATION_ACTIVATION])
        route, shards, keys = told["route"], told["shards"], tuple(told["keys"])
        sound = isinstance(route, str) and isinstance(shards, int) and shards >= 1
        if not sound or not all(_DIGEST.fullmatch(key) for key in keys):
            return None
        if reserved_for(route, metadata["namespace"]):
            return None
        return Announcement(
            namespace=metadata["namespace"],
            name=metadata["labels"][LABEL_DEPLOYMENT],
            route=route,
            open=told["open"] is True,
            keys=keys,
            shards=shards,
            held=told["held"] is True,
        )
    except (ValueError, KeyError, TypeError):
        return None
