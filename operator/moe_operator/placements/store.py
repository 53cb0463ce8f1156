"""What is known of the ExpertPlacements, by deployment; see ``kube.store``. No I/O."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from moe_operator.api import ExpertPlacement
from moe_operator.api.names import revision_of
from moe_operator.errors import InvalidObjectError
from moe_operator.kube.api import Json, Listing
from moe_operator.kube.store import ObjectStore, key_of
from moe_operator.placements.book import Book

logger = logging.getLogger(__name__)


class PlacementStore:
    """Fed by the watch, by listings and by the answers to own writes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.objects = ObjectStore(clock)
        self._keys: dict[str, set[str]] = {}
        self._read: dict[str, tuple[str, ExpertPlacement | None]] = {}

    def put(self, live: Json, watched: bool = False) -> bool:
        """See ``ObjectStore``."""
        news = self.objects.put(live, watched)
        self._note(live)
        return news

    def remove(self, last: Json) -> bool:
        """See ``ObjectStore``."""
        return self.objects.remove(last)

    def forget(self, key: str) -> None:
        """Forget an object that is known to be gone, though nobody told of it."""
        if known := self.objects.get(key):
            self.remove(known)

    def replace_all(self, listing: Listing, namespace: str | None = None) -> None:
        """See ``ObjectStore``."""
        self.objects.replace_all(listing, namespace)
        for live in listing.items:
            self._note(live)

    def deployments(self) -> set[str]:
        """Keys of the MoEDeployments that any placement is of, there or not."""
        return set(self._keys)

    def get(self, placement: ExpertPlacement) -> Json | None:
        """The object as it is known now."""
        return self.objects.get(placement.key)

    def book(self, deployment: str) -> Book:
        """All placements of a MoEDeployment (``namespace/name``) that can be read."""
        keys = self._keys.get(deployment, set())
        found = {key: live for key in keys if (live := self.objects.get(key)) is not None}
        for key in keys - found.keys():
            self._read.pop(key, None)
        self._keys[deployment] = set(found)
        if not found:
            self._keys.pop(deployment)
        placements = (placement for key, live in found.items() if (placement := self._parsed(key, live)))
        return Book.of(placements, map(revision_of, found))

    def _note(self, live: Json) -> None:
        self._keys.setdefault(deployment_of(live), set()).add(key_of(live))

    def _parsed(self, key: str, live: Json) -> ExpertPlacement | None:
        version = str(live["metadata"].get("resourceVersion", ""))
        known = self._read.get(key)
        if known is None or known[0] != version:
            known = self._read[key] = version, _parse(live)
        return known[1]


def deployment_of(live: Json) -> str:
    """Key of the MoEDeployment of an ExpertPlacement; the API server sees to it that its name tells."""
    metadata = live["metadata"]
    return f"{metadata['namespace']}/{metadata['name'].rpartition('-r')[0]}"


def _parse(live: Json) -> ExpertPlacement | None:
    try:
        return ExpertPlacement.parse(live)
    except InvalidObjectError as error:
        logger.warning("ExpertPlacement %s is left alone: %s", key_of(live), error)
        return None
