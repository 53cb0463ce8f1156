"""HorizontalPodAutoscalers of a MoEDeployment, and the servers of metrics that they go by."""

from collections.abc import Callable
from typing import Any

from metrics_server import MetricsApi

Json = dict[str, Any]
REQUESTS, BUSY = "moe-requests", "moe-shard-busy"
"""Of all together; and of each pod with a shard."""
TIME = "2026-01-02T03:04:05Z"


def external(value: Callable[[], int]) -> MetricsApi:
    """The API of external metrics, with ``REQUESTS``."""
    kind = "ExternalMetricValueList"

    def answer(path: str, _: str) -> Json | None:
        if not path.endswith(f"/{REQUESTS}"):
            return None
        item = {"metricName": REQUESTS, "metricLabels": {}, "timestamp": TIME, "value": str(value())}
        return {"kind": kind, "items": [item]}

    return MetricsApi("external.metrics.k8s.io", "v1beta1", {"name": "externalmetrics", "kind": kind}, answer)


def of_pods(namespace: str, values: Callable[[str], dict[str, int]]) -> MetricsApi:
    """The API of custom metrics, with ``BUSY`` of each pod that a selector finds, by name, in thousandths."""
    kind = "MetricValueList"

    def answer(path: str, selector: str) -> Json | None:
        if path != f"/namespaces/{namespace}/pods/*/{BUSY}":
            return None
        items = [
            {
                "describedObject": {"kind": "Pod", "apiVersion": "/v1", "namespace": namespace, "name": name},
                "metric": {"name": BUSY},
                "timestamp": TIME,
                "value": f"{value}m",
            }
            for name, value in values(selector).items()
        ]
        return {"kind": kind, "items": items}

    return MetricsApi("custom.metrics.k8s.io", "v1beta2", {"name": f"pods/{BUSY}", "kind": kind}, answer)


def by_requests(name: str, least: int, most: int, per_shard: str) -> Json:
    """Goes by the sum of ``REQUESTS``."""
    return _autoscaler(name, least, most, {"type": "External", "external": _metric(REQUESTS, per_shard)})


def by_pods(name: str, least: int, most: int, busy: str) -> Json:
    """Goes by the mean of ``BUSY`` of the pods that ``status.selector`` finds."""
    return _autoscaler(name, least, most, {"type": "Pods", "pods": _metric(BUSY, busy)})


def _metric(name: str, value: str) -> Json:
    return {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": value}}


def _autoscaler(name: str, least: int, most: int, metric: Json) -> Json:
    """Goes down as soon as it may."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "moe-operator.io/v1alpha1", "kind": "MoEDeployment", "name": name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [metric],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        },
    }
