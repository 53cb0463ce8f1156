"""The operator's Prometheus metrics: their names, labels and meaning, all here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from moe_operator.api.placement import Origin
from moe_operator.api.status import MoEDeploymentStatus

RECONCILES = "moe_operator_reconciles"
RECONCILE_SECONDS = "moe_operator_reconcile_seconds"
QUEUE_DEPTH = "moe_operator_queue_depth"
WORKERS_BUSY = "moe_operator_workers_busy"
CONDITIONS = "moe_operator_conditions"
SERVE_WRITES = "moe_operator_serve_writes"
CLEANUPS_ABANDONED = "moe_operator_cleanups_abandoned"
ORPHANED_APPLICATIONS = "moe_operator_orphaned_applications"
REBALANCE_DECISIONS = "moe_operator_rebalance_decisions"
REBALANCE_ROLLBACKS = "moe_operator_rebalance_rollbacks"
COSTS = "moe_operator_costs"
AUTOSCALE_DECISIONS = "moe_operator_autoscale_decisions"
LEADER = "moe_operator_leader"

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class ReconcileResult(StrEnum):
    """How a reconcile ended."""

    DONE = "done"
    """Nothing is left to do until something changes."""
    WAITING = "waiting"
    """On the way; the key comes again by itself."""
    CONFLICT = "conflict"
    """Somebody wrote in between, to Kubernetes or to Ray; the key comes again at once."""
    ERROR = "error"
    """It raised; the key comes again with a growing delay."""


class Metrics:
    """All metrics of one operator process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = Counter(RECONCILES, "Reconciles by how they ended.", ["result"], registry=self.registry)
        self._seconds = Histogram(
            RECONCILE_SECONDS, "Duration of a reconcile.", buckets=_SECONDS, registry=self.registry
        )
        self._queue = Gauge(QUEUE_DEPTH, "Keys that wait for a worker.", registry=self.registry)
        self._busy = Gauge(
            WORKERS_BUSY,
            "Workers that are at work, by namespace of the key and whether it is known to keep its worker waiting.",
            ["namespace", "slow"],
            registry=self.registry,
        )
        self._conditions = Gauge(
            CONDITIONS,
            "MoEDeployments by condition, its status and its reason.",
            ["condition", "status", "reason"],
            registry=self.registry,
        )
        self._serve_writes = Counter(
            SERVE_WRITES, "PUTs of a Serve configuration by result: ok or failed.", ["result"], registry=self.registry
        )
        self._abandoned = Counter(
            CLEANUPS_ABANDONED,
            "Deleted MoEDeployments whose Serve applications could not be removed in time.",
            registry=self.registry,
        )
        self._orphaned = Gauge(
            ORPHANED_APPLICATIONS,
            "Serve applications named after a MoEDeployment that is not there; they may be another cluster's.",
            registry=self.registry,
        )
        self._decisions = Counter(
            REBALANCE_DECISIONS,
            "Looks at the traffic of a MoEDeployment by result (Accepted, Rejected, Failed) and reason.",
            ["result", "reason"],
            registry=self.registry,
        )
        self._rollbacks = Counter(
            REBALANCE_ROLLBACKS,
            "ExpertPlacements that were rolled back, since what was counted of them is worse than before.",
            ["origin"],
            registry=self.registry,
        )
        self._scaled = Counter(
            AUTOSCALE_DECISIONS,
            "Decisions of spec.experts.autoscaling by direction (up, down, none) and reason.",
            ["direction", "reason"],
            registry=self.registry,
        )
        self._costs = Gauge(
            COSTS,
            "What MoEDeployments with spec.cost cost, by figure: per_hour, per_million_tokens, saved.",
            ["namespace", "name", "currency", "figure"],
            registry=self.registry,
        )
        self._leader = Gauge(LEADER, "1 while this process is the leader.", registry=self.registry)
        for result in ReconcileResult:
            self._reconciles.labels(result.value)
        for outcome in ("ok", "failed"):
            self._serve_writes.labels(outcome)
        # They are few, and Prometheus sees no increase in a series that begins with its first one.
        for origin in Origin:
            self._rollbacks.labels(origin.value)

    @contextmanager
    def reconcile_timed(self) -> Iterator[None]:
        """Around one reconcile."""
        with self._seconds.time():
            yield

    def reconcile_ended(self, result: ReconcileResult) -> None:
        """Count one reconcile."""
        self._reconciles.labels(result.value).inc()

    def queue_depth(self, keys: int) -> None:
        """Keys that wait for a worker now."""
        self._queue.set(keys)

    def workers_busy(self, workers: Mapping[tuple[str, bool], int]) -> None:
        """Workers that are at work now, by namespace and whether the key is known to be slow."""
        self._busy.clear()
        for (namespace, slow), number in workers.items():
            self._busy.labels(namespace, str(slow).lower()).set(number)

    def serve_written(self, ok: bool) -> None:
        """Count one PUT of a Serve configuration."""
        self._serve_writes.labels("ok" if ok else "failed").inc()

    def cleanup_abandoned(self) -> None:
        """Count one deletion that left Serve applications behind."""
        self._abandoned.inc()

    def orphaned(self, applications: int) -> None:
        """Serve applications whose MoEDeployment is not there."""
        self._orphaned.set(applications)

    def rebalance_decided(self, result: str, reason: str) -> None:
        """Count one look at the traffic."""
        self._decisions.labels(result, reason).inc()

    def rolled_back(self, origin: str) -> None:
        """Count one placement that was taken back; ``origin``: who wrote it."""
        self._rollbacks.labels(origin).inc()

    def autoscaled(self, before: int, after: int, reason: str) -> None:
        """Count one decision on the number of shards; ``before``, ``after``: how many."""
        direction = "none" if before == after else "up" if after > before else "down"
        self._scaled.labels(direction, reason).inc()

    def leading(self, leader: bool) -> None:
        """Whether this process is the leader."""
        self._leader.set(int(leader))

    def conditions(self, statuses: Mapping[str, MoEDeploymentStatus]) -> None:
        """Set the gauges of conditions and costs anew from the status of every known MoEDeployment, by key."""
        self._conditions.clear()
        for status in statuses.values():
            for condition in status.conditions:
                self._conditions.labels(condition.type, condition.status, condition.reason).inc()
        self._costs.clear()
        for key, status in statuses.items():
            self._tell_cost(key, status)

    def _tell_cost(self, key: str, status: MoEDeploymentStatus) -> None:
        cost = status.cost
        if cost is None:
            return
        figures = {"per_hour": cost.per_hour, "per_million_tokens": cost.per_million_tokens, "saved": cost.saved}
        namespace, _, name = key.partition("/")
        for figure, told in figures.items():
            if told is not None:
                self._costs.labels(namespace, name, cost.currency, figure).set(float(told))

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
