"""MoEDeployments as a user applies them to a real API server, and what it answers."""

import json
from typing import Any

import pytest

from moe_dev.kube import Kubectl, KubectlError

MODEL = {
    "digest": "sha256:0",
    "architecture": "Mixtral",
    "dtype": "bfloat16",
    "layers": 6,
    "experts": 16,
    "topK": 2,
    "bytesPerExpert": 393216,
    "maxContext": 1024,
}


DASHBOARD = "http://127.0.0.1:8265"


ABSENT = None


def manifest(name: str = "tiny", **changes: Any) -> dict[str, Any]:
    """A good manifest with ``changes``, whose keys are paths below spec with ``__`` between."""
    spec: dict[str, Any] = {
        "model": {"source": {"path": "models/tiny"}},
        "experts": {"shards": 4, "copies": {"min": 2}},
        "runtime": {"rayCluster": {"dashboardURL": DASHBOARD, "serveURL": "http://127.0.0.1:8000"}},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = spec
        for parent in parents:
            at = at.setdefault(parent, {})
        if value is ABSENT:
            del at[last]
        else:
            at[last] = value
    return {
        "apiVersion": "moe-operator.io/v1alpha1",
        "kind": "MoEDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }


def refusal(kube: Kubectl, body: dict[str, Any], namespace: str = "default") -> str:
    with pytest.raises(KubectlError) as caught:
        kube.apply(body, namespace=namespace)
    return str(caught.value)


def patch(kube: Kubectl, namespace: str, body: dict[str, Any], *flags: str) -> None:
    kube.run("patch", "moe", "tiny", "--namespace", namespace, "--type=merge", f"--patch={json.dumps(body)}", *flags)


def patch_status(kube: Kubectl, namespace: str, **status: Any) -> None:
    patch(kube, namespace, {"status": status}, "--subresource=status")


def know_the_model(kube: Kubectl, namespace: str, slots: int) -> None:
    """What the operator writes once it knows that 16 experts have ``slots`` slots on each shard."""
    patch_status(kube, namespace, slotsPerShard=slots, model=MODEL)
