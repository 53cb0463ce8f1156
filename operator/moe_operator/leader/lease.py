"""The Lease as data, and the judgement whether it may be claimed. No I/O and no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from moe_operator.kube.api import Json
from moe_operator.kube.resources import LEASES

_MICRO_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Who competes for which Lease, and how patiently; seconds. Invariant: renewal + request < duration.

    Attributes:
        identity: of this process, never used twice.
        duration: others wait this long after the last renewal they saw.
        renew_deadline: the leader stops writing this long after it sent its last successful renewal.
        retry_period: between two attempts. Short against the deadline, so that several renewals may fail.
        request_timeout: bound on one call. What was sent just before the deadline must be over before ``duration`` is.
    """

    namespace: str
    name: str
    identity: str
    duration: int = 15
    renew_deadline: float = 9.0
    retry_period: float = 2.0
    request_timeout: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_period < self.renew_deadline:
            raise ValueError(f"retry_period {self.retry_period} must lie between 0 and renew_deadline")
        if self.renew_deadline + self.request_timeout >= self.duration:
            raise ValueError(
                f"renew_deadline {self.renew_deadline} + request_timeout {self.request_timeout} must be less than "
                f"duration {self.duration}: a write begun in time would else end in another leader's time"
            )


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a Lease says. Times in it are other machines' and are only compared for equality."""

    holder: str
    duration: float
    renewed: str
    version: str

    @classmethod
    def of(cls, lease: Json) -> Self:
        """Read a Lease; fields that are missing mean that nobody holds it."""
        spec = lease.get("spec", {})
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration=float(spec.get("leaseDurationSeconds") or 0),
            renewed=spec.get("renewTime") or "",
            version=lease["metadata"].get("resourceVersion", ""),
        )


class Patience:
    """Judges by our own clock alone whether the holder of a Lease has let it run out."""

    def __init__(self) -> None:
        self._seen: LeaseRecord | None = None
        self._wait_until = float("-inf")

    def may_claim(self, lease: LeaseRecord | None, identity: str, now: float) -> bool:
        """Whether ``identity`` may write itself into the Lease that was read at ``now``; None if there is none.

        A Lease that disappears does not end the term of a holder who was seen alive: it may be there still.
        """
        if lease is not None and lease != self._seen:
            self._seen = lease
            self._wait_until = now if lease.holder in ("", identity) else now + lease.duration
        return now >= self._wait_until


def claimed(lease: Json | None, settings: LeaseSettings, now: datetime) -> Json:
    """The Lease held by ``settings.identity`` from ``now`` (UTC); metadata of an existing one is kept."""
    live = lease or _new(settings)
    spec = live.get("spec", {})
    changes = spec.get("holderIdentity") != settings.identity
    return {
        **live,
        "spec": {
            **spec,
            "holderIdentity": settings.identity,
            "leaseDurationSeconds": settings.duration,
            "acquireTime": now.strftime(_MICRO_TIME) if changes else spec.get("acquireTime"),
            "renewTime": now.strftime(_MICRO_TIME),
            "leaseTransitions": (spec.get("leaseTransitions") or 0) + int(changes and lease is not None),
        },
    }


def released(lease: Json, now: datetime) -> Json:
    """The Lease held by nobody, so that the next leader need not wait."""
    spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now.strftime(_MICRO_TIME)}
    return {**lease, "spec": spec}


def _new(settings: LeaseSettings) -> Json:
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": {"namespace": settings.namespace, "name": settings.name},
    }
