"""What is counted of the activator, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from moe_operator.activator.places import Places


class Metrics:
    """Of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._answered = Counter(
            "moe_activator_answered", "Requests that were held and then answered.", registry=self._registry
        )
        self._refused = Counter(
            "moe_activator_refused", "Requests that were not, by the code of the error.", ["code"],
            registry=self._registry,
        )  # fmt: skip
        self._held = Gauge("moe_activator_held_requests", "Requests that are held now.", registry=self._registry)
        self._bytes = Gauge("moe_activator_held_bytes", "Bytes of their bodies.", registry=self._registry)
        self._woken = Counter("moe_activator_wakes", "Deployments that were woken.", registry=self._registry)

    def answered(self) -> None:
        self._answered.inc()

    def refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def woken(self) -> None:
        self._woken.inc()

    def holds(self, places: Places) -> None:
        """These are counted, each time that somebody looks."""
        self._held.set_function(lambda: places.requests)
        self._bytes.set_function(lambda: places.bytes)

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
