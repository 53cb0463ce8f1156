"""Events: told once per transition, counted when the same is told again. The caller decides what a transition is."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from moe_operator.api.deployment import Identity
from moe_operator.api.names import REPORTING_CONTROLLER
from moe_operator.api.reasons import AutoscaleReason, PlacementReason, Reason
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.errors import AlreadyExistsError, KubeError, NotFoundError
from moe_operator.kube.resources import EVENTS

MAX_NOTE = 1024
"""The API server's bound, in bytes."""

EventType = Literal["Normal", "Warning"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EventNote:
    """What is to be told.

    Attributes:
        action: what the operator was doing, as one word: Reconcile, Scale, Delete, Place.
    """

    type: EventType
    reason: Reason | PlacementReason | AutoscaleReason
    note: str
    action: str = "Reconcile"


class EventRecorder:
    """Writes Events about the operator's own kinds. A lost Event is logged and harms nothing else.

    Args:
        instance: identity of this operator process.
        now: UTC.
    """

    def __init__(self, api: KubeApi, instance: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._api = api
        self._instance = instance
        self._now = now

    async def record(self, about: Identity, note: EventNote) -> None:
        """Create the Event, or count it once more if the same was told of the same object and is still kept."""
        body = self._body(about, note)
        try:
            await self._api.create(EVENTS, body)
        except AlreadyExistsError:
            await self._count(body)
        except KubeError as error:
            logger.warning("Event %s %r was not written: %s", note.reason, note.note, error)

    async def _count(self, body: Json) -> None:
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        try:
            live = await self._api.get(EVENTS, namespace, name)
            count = (live.get("series") or {}).get("count", 1) + 1
            series = {"count": count, "lastObservedTime": self._timestamp()}
            await self._api.merge_patch(EVENTS, namespace, name, {"series": series})
        except NotFoundError:
            logger.debug("Event %s expired while it was being counted", name)
        except KubeError as error:
            logger.warning("Event %s was not counted: %s", name, error)

    def _body(self, about: Identity, note: EventNote) -> Json:
        metadata = about.metadata
        text = note.note.encode()[:MAX_NOTE].decode(errors="ignore")
        told = "\n".join((metadata.uid, note.type, note.reason, note.action, text))
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {
                "namespace": metadata.namespace,
                "name": f"{metadata.name}.{hashlib.sha256(told.encode()).hexdigest()[:16]}",
            },
            "eventTime": self._timestamp(),
            "reportingController": REPORTING_CONTROLLER,
            "reportingInstance": self._instance[:128],
            "type": note.type,
            "reason": note.reason,
            "action": note.action,
            "note": text,
            "regarding": {
                "apiVersion": about.api_version,
                "kind": about.kind,
                "namespace": metadata.namespace,
                "name": metadata.name,
                "uid": metadata.uid,
                "resourceVersion": metadata.resource_version,
            },
        }

    def _timestamp(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
