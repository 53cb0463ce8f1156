"""A small server of metrics, which the API server asks as an API of its own, for HorizontalPodAutoscalers."""

import json
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from moe_dev.kube import Kubectl
from moe_dev.pki import Authority

Json = dict[str, Any]
SERVICE = "metrics"


@dataclass(frozen=True, slots=True)
class MetricsApi:
    """``resource``: as discovery tells it; ``answer``: (path below group and version, selector of labels) to what is
    there, or None."""

    group: str
    version: str
    resource: Json
    answer: Callable[[str, str], Json | None]

    @property
    def path(self) -> str:
        return f"/apis/{self.group}/{self.version}"

    def told(self, path: str, selector: str) -> Json | None:
        if path == self.path:
            told = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{self.group}/{self.version}"}
            return {**told, "resources": [{"singularName": "", "namespaced": True, "verbs": ["get"], **self.resource}]}
        found = self.answer(path.removeprefix(self.path), selector) if path.startswith(f"{self.path}/") else None
        return found and {"apiVersion": f"{self.group}/{self.version}", **found}


class Handler(BaseHTTPRequestHandler):
    api: MetricsApi

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        (selector,) = urllib.parse.parse_qs(query).get("labelSelector", [""])
        found = self.api.told(urllib.parse.unquote(path).rstrip("/"), selector)
        text = json.dumps(found or {}).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def served(kube: Kubectl, namespace: str, directory: Path, api: MetricsApi, host: str = "127.0.0.1") -> Iterator[None]:
    """At an address of this machine, for as long as the block lasts; a Service of the namespace leads there."""
    directory.mkdir()
    server = Authority(directory).server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    listening = ThreadingHTTPServer((host, 0), type("OfOne", (Handler,), {"api": api}))
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    name, port = f"{api.version}.{api.group}", listening.server_port
    reached = {"service": {"name": SERVICE, "namespace": namespace, "port": port}, "insecureSkipTLSVerify": True}
    spec = {"group": api.group, "version": api.version, "groupPriorityMinimum": 100, "versionPriority": 100, **reached}
    metadata = {"name": name}
    known = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": metadata, "spec": spec}
    try:
        kube.apply(*_leading_to(host, port), namespace=namespace)
        kube.apply(known)
        yield
    finally:
        kube.run("delete", "apiservice", name, "--ignore-not-found")
        listening.shutdown()
        listening.server_close()
        thread.join(10)


def _leading_to(host: str, port: int) -> list[Json]:
    """The Service. To loopback none leads but by a name; an API server that asks endpoints knows no Service by name."""
    service: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE}}
    if host == "127.0.0.1":
        return [service | {"spec": {"type": "ExternalName", "externalName": "localhost"}}]
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": SERVICE, "labels": {"kubernetes.io/service-name": SERVICE}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": port}],
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
    }
    return [service | {"spec": {"ports": [{"port": port}]}}, endpoints]
