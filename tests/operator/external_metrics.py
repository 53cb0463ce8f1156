"""A small server of external metrics, and the HorizontalPodAutoscaler of a MoEDeployment that asks it."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from moe_dev.kube import Kubectl
from moe_dev.pki import Authority

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
METRIC = "moe-requests"


class External(BaseHTTPRequestHandler):
    """The API of external metrics, with one of them."""

    value: Callable[[], int]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path.endswith(f"/{METRIC}"):
            item = {"metricName": METRIC, "metricLabels": {}, "timestamp": "2026-01-02T03:04:05Z"}
            items = [{**item, "value": str(type(self).value())}]
            self._say({"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "items": items})
        elif path == f"/apis/{GROUP}/{VERSION}":
            resource = {"name": "externalmetrics", "namespaced": True, "kind": "ExternalMetricValueList"}
            resources = [{**resource, "singularName": "", "verbs": ["get"]}]
            told = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}"}
            self._say({**told, "resources": resources})
        else:
            self._say({}, 404)

    def _say(self, body: dict, status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def external_metrics(kube: Kubectl, namespace: str, directory: Path, value: Callable[[], int]) -> Iterator[None]:
    """Known to the API server by a Service that is a name, since there are no pods here."""
    directory.mkdir()
    server = Authority(directory).server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    handler = type("Handler", (External,), {"value": staticmethod(value)})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    name = f"{VERSION}.{GROUP}"
    service = {"name": "metrics", "namespace": namespace}
    reached = {"service": {**service, "port": listening.server_port}, "insecureSkipTLSVerify": True}
    spec = {"group": GROUP, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100, **reached}
    try:
        kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": service,
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            },
            {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name}, "spec": spec},
        )
        yield
    finally:
        kube.run("delete", "apiservice", name, "--ignore-not-found")
        listening.shutdown()
        listening.server_close()
        thread.join(10)


def horizontal_pod_autoscaler(name: str, least: int, most: int, per_shard: str) -> dict[str, Any]:
    """Of a MoEDeployment, by ``METRIC``: goes down as soon as it may."""
    target = {"type": "AverageValue", "averageValue": per_shard}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "moe-operator.io/v1alpha1", "kind": "MoEDeployment", "name": name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [{"type": "External", "external": {"metric": {"name": METRIC}, "target": target}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        },
    }
