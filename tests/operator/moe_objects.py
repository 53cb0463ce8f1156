"""MoEDeployments as a user makes and reads them, with bounded waits that say what they waited for."""

import base64
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from kube_rest import rest

from moe_dev.kube import Kubectl
from moe_dev.operator_process import OperatorProcess

JsonObject = dict[str, Any]
OURS, EVENTS = "/apis/moe-operator.io/v1alpha1", "/apis/events.k8s.io/v1"
# For a loaded machine; what is asked for is seconds.
SOON = 90.0
# Looks take processor time, which what is waited for may need itself: a quarter of the time at most.
POLL = 0.1
PAUSES_PER_LOOK = 3.0
# Promised: what is wrong is a condition, and what is deleted is gone, within so many seconds.
TOLD = 10.0
REMOVED = 30.0


class Objects:
    """MoEDeployments of one namespace, as a user makes and reads them."""

    def __init__(self, kube: Kubectl, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace

    def apply(self, name: str, spec: JsonObject) -> None:
        self.kube.apply(self.manifest(name, spec))

    def manifest(self, name: str, spec: JsonObject) -> JsonObject:
        return {
            "apiVersion": "moe-operator.io/v1alpha1",
            "kind": "MoEDeployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }

    def get(self, name: str) -> JsonObject | None:
        return self._read(OURS, f"moedeployments/{name}")

    def status(self, name: str) -> JsonObject:
        return (self.get(name) or {}).get("status", {})

    def condition(self, name: str, kind: str) -> JsonObject:
        return condition(self.get(name) or {}, kind)

    def patch(self, name: str, patch: str) -> None:
        self.kube.run("patch", "moe", name, "-n", self.namespace, "--type=merge", "-p", patch)

    def annotate(self, name: str, annotation: str) -> None:
        """``key=value``; ``key-`` takes it away."""
        self.kube.run("annotate", "moe", name, "-n", self.namespace, "--overwrite", annotation)

    def placement(self, name: str) -> JsonObject:
        """An ExpertPlacement; empty where there is none."""
        return self._read(OURS, f"expertplacements/{name}") or {}

    def placements(self) -> list[JsonObject]:
        return self._list(OURS, "expertplacements")

    def phase(self, name: str) -> str | None:
        """Of an ExpertPlacement; None where there is none, or nobody has looked at it."""
        return self.placement(name).get("status", {}).get("phase")

    def approve(self, name: str) -> None:
        """An ExpertPlacement is decided for, as an administrator does it."""
        patch = '{"spec": {"decision": "Approved"}}'
        self.kube.run("patch", "xp", name, "-n", self.namespace, "--type=merge", "-p", patch)

    def wait_active(self, name: str, timeout: float = SOON) -> None:
        """Until requests are routed by an ExpertPlacement."""
        self.wait(f"{name} to be there", lambda: bool(self.placement(name)), timeout)
        arguments = ["wait", "--for=condition=Active", f"xp/{name}", "-n", self.namespace]
        self.kube.run(*arguments, f"--timeout={timeout:.0f}s", timeout=timeout + 30)

    def secret(self, name: str, use: str, addresses: str | None = None, **values: str) -> None:
        """A Secret for a use; ``addresses``: where a token in it may be sent."""
        metadata: JsonObject = {"name": name, "namespace": self.namespace, "labels": {"moe-operator.io/use": use}}
        if addresses is not None:
            metadata["annotations"] = {"moe-operator.io/allowed-addresses": addresses}
        self.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values})

    def ray_token(self, name: str, token: str, *dashboard_urls: str) -> None:
        """The token of a Ray, which may be sent to these and nowhere else."""
        self.secret(name, "ray-token", addresses=",".join(dashboard_urls), token=token)

    def secret_value(self, name: str, key: str) -> str:
        found = self._read("/api/v1", f"secrets/{name}")
        assert found is not None, f"no Secret {name}"
        return base64.b64decode(found["data"][key]).decode()

    def events(self, reason: str) -> list[JsonObject]:
        return self._list(EVENTS, "events", fieldSelector=f"reason={reason}")

    def events_of(self, name: str) -> list[JsonObject]:
        """All Events about one object."""
        return [event for event in self._list(EVENTS, "events") if event["regarding"]["name"] == name]

    @staticmethod
    def metrics(operator: OperatorProcess) -> str:
        with urllib.request.urlopen(f"{operator.url}/metrics", timeout=5) as answer:
            return answer.read().decode()

    def metric(self, operator: OperatorProcess, sample: str) -> float:
        """The value of one sample, such as ``moe_operator_leader``."""
        lines = [line for line in self.metrics(operator).splitlines() if line.startswith(f"{sample} ")]
        assert len(lines) == 1, f"{sample} is there {len(lines)} times"
        return float(lines[0].rpartition(" ")[2])

    def wait(self, what: str, check: Callable[[], bool], timeout: float = SOON) -> float:
        """Seconds until ``check``; fails with the state of all objects after ``timeout``."""
        started = looked = time.monotonic()
        while not check():
            if time.monotonic() - started > timeout:
                shown = self.kube.run("get", "moe,xp", "-n", self.namespace, "-o", "yaml")
                pytest.fail(f"waited {timeout:.0f} s for {what}; there is:\n{shown}")
            time.sleep(max(POLL, PAUSES_PER_LOOK * (time.monotonic() - looked)))
            looked = time.monotonic()
        return time.monotonic() - started

    def wait_condition(self, name: str, kind: str, status: str, reason: str, timeout: float = SOON) -> float:
        def holds() -> bool:
            found = self.condition(name, kind)
            return (found.get("status"), found.get("reason")) == (status, reason)

        return self.wait(f"{kind}={status} {reason} of {name}", holds, timeout)

    def wait_ready(self, name: str, timeout: float = SOON) -> float:
        return self.wait_condition(name, "Ready", "True", "Available", timeout)

    def wait_settled(self, name: str, generation: int, timeout: float = SOON) -> float:
        """Until what runs is what generation ``generation`` of the spec asks for."""

        def holds() -> bool:
            found = self.condition(name, "Progressing")
            return (found.get("observedGeneration"), found.get("reason")) == (generation, "Settled")

        return self.wait(f"generation {generation} of {name} to be settled", holds, timeout)

    def wait_gone(self, name: str, timeout: float = SOON) -> float:
        return self.wait(f"{name} to be gone", lambda: self.get(name) is None, timeout)

    def delete(self, name: str) -> None:
        """Ask for its deletion and do not wait."""
        self.kube.run("delete", "moe", name, "-n", self.namespace, "--wait=false", "--ignore-not-found")

    def names(self) -> list[str]:
        return [moe["metadata"]["name"] for moe in self.all()]

    def all(self) -> list[JsonObject]:
        return self._list(OURS, "moedeployments")

    def let_go(self) -> None:
        """Take the finalizers off: the Ray of the test ends with it, and nobody must wait for it."""
        api = rest(self.kube.kubeconfig)
        for name in self.names():
            path = f"{OURS}/namespaces/{self.namespace}/moedeployments/{name}"
            api.delete(path, missing_ok=True)
            api.merge(path, {"metadata": {"finalizers": None}}, missing_ok=True)

    def scale(self, name: str, shards: int) -> None:
        self.kube.run("scale", "moe", name, "-n", self.namespace, f"--replicas={shards}")

    def _read(self, group: str, path: str, **query: str) -> JsonObject | None:
        return rest(self.kube.kubeconfig).get(f"{group}/namespaces/{self.namespace}/{path}", **query)

    def _list(self, group: str, resource: str, **query: str) -> list[JsonObject]:
        found = self._read(group, resource, **query)
        assert found is not None
        items: list[JsonObject] = found["items"]
        return items


def condition(moe: JsonObject, kind: str) -> JsonObject:
    conditions = moe.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})
