"""A real API server with KubeRay's kinds takes what is rendered, field by field: unknown ones are errors."""

import json
from typing import Any

import pytest
from foreign_kinds import taken
from kube_ray_objects import all_manifests, kube_ray_deployment

from moe_dev.kube import Kubectl

pytestmark = pytest.mark.e2e

WORKERS = {
    "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "4Gi", "nvidia.com/gpu": "1"}},
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [
        {"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30},
        {"operator": "Exists"},
    ],
    "topologySpreadConstraints": [{"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "everything": {
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "pull"}],
        "serviceAccountName": "moe",
        "priorityClassName": "system-node-critical",
        "volumes": [{"name": "models", "claimName": "models", "mountPath": "/models"}],
        "upgrade": {"strategy": "None", "deletionDelaySeconds": 60},
        "head": {
            **{k: WORKERS[k] for k in ("resources", "nodeSelector", "tolerations")},
            "gcsFaultTolerance": {"redisAddress": "redis:6379", "passwordSecretRef": {"name": "redis"}},
        },
        "attentionWorkers": WORKERS,
        "expertWorkers": WORKERS,
        "apiFrom": [{"namespaceLabels": {"team": "web"}, "podLabels": {"app": "web"}}],
    },
}


SOURCES: dict[str, dict[str, Any]] = {
    "hugging face": {"huggingFace": {"repo": "a/b", "revision": "0" * 40, "tokenSecretRef": {"name": "token"}}},
    "claim": {"pvc": {"claimName": "models", "path": "team/tiny 1"}},
    "image": {"image": {"reference": "registry.example.org:5000/tiny@sha256:0a", "pullPolicy": "Always"}},
    "download": {
        "download": {"url": "s3://a/b", "endpoint": "http://c:9000", "sha256": "0" * 64, "secretRef": {"name": "keys"}}
    },
}


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_what_is_rendered_is_taken(kinds: Kubectl, namespace: str, fields: dict[str, Any]) -> None:
    check(kinds, namespace, fields, {})


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_so_is_every_way_to_a_model(kinds: Kubectl, namespace: str, source: dict[str, Any]) -> None:
    check(kinds, namespace, {}, {"model": {"source": source}})


def check(kinds: Kubectl, namespace: str, fields: dict[str, Any], more: dict[str, Any]) -> None:
    resources = {"gpus": 0.5, "accelerator": "H100", "labelSelector": {"zone": "in(a, b)", "disk": "!slow"}}
    moe = kube_ray_deployment(fields, shards=4, copies={"min": 2}, resources=resources, spec=more)
    spec = json.loads(moe.model_dump_json(by_alias=True, exclude_none=True, include={"spec"}))
    owner = {"apiVersion": moe.api_version, "kind": moe.kind, "metadata": {"name": "tiny"}, **spec}
    children = all_manifests(moe)
    assert taken(kinds, namespace, [owner, *children]) == 1 + len(children)
