"""What a release tells and is told, as fixtures in ``tests/contract/releases`` keep it.

When a release is made: ``python tests/operator/released.py > tests/contract/releases/VERSION.json``. Until then that of
the version to come is made anew whenever what is rendered changes: afterwards nothing of it may.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kube_ray_objects import IMAGE, TOKEN
from moe_facts import FACTS

import moe_contract
from moe_contract.base import CONTRACT, WireModel
from moe_contract.rendering import Desired
from moe_contract.report import DirectoryReport, Progress, ShardReport
from moe_contract.serve.state import ServeState
from moe_operator.api import MoEDeployment
from moe_operator.kube.secrets import KeyHashes
from moe_operator.reconcile.intent import next_intent
from moe_operator.reconcile.world import World
from moe_operator.runtimes.kube_ray import state as kube_ray
from moe_operator.runtimes.kube_ray.clusters import Clusters
from moe_operator.runtimes.kube_ray.manifests.names import SERVE_CONFIG
from moe_operator.runtimes.kube_ray.manifests.ray_service import build_ray_service
from moe_operator.runtimes.kube_ray.manifests.serve_config import serve_config
from moe_operator.runtimes.port import RuntimeState
from moe_operator.runtimes.ray_cluster.render import change_of
from moe_operator.runtimes.ray_cluster.state import runtime_state

FOLDER = Path(__file__).parents[1] / "contract" / "releases"
_RUNTIME = {"rayCluster": {"dashboardURL": "http://ray:8265", "serveURL": "http://ray:8000"}}
WISHES: dict[str, Any] = {
    "with all defaults": {"model": {"source": {"path": "models/tiny"}}, "runtime": _RUNTIME},
    "with all that can be set": {
        "model": {"source": {"path": "/models/m"}, "servedName": "org/m", "dtype": "bfloat16"},
        "experts": {"shards": 3, "slotsPerShard": 12, "copies": {"min": 2}},
        "attention": {"minReplicas": 2, "maxReplicas": 5, "targetOngoingRequests": 9},
        "api": {"minReplicas": 3, "maxReplicas": 6, "targetOngoingRequests": 70},
        "serving": {
            "routePrefix": "/m",
            "maxContext": 512,
            "generationDefaults": "None",
            "allowedOrigins": ["https://chat.example.com"],
            "queue": {"maxRequests": 7, "maxTokens": 9000},
        },
        "rebalance": {"mode": "Auto", "maxBytesPerSecond": "100Mi"},
        "runtime": _RUNTIME,
    },
}
"""Specs of MoEDeployments, as users of the first release could write them."""
_NOW = datetime(2026, 1, 2, tzinfo=UTC)
_PODS: dict[str, Any] = {
    "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
    "nodeSelector": {"pool": "moe"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
}
_ASKED = {"gpus": 0.5, "accelerator": "H100", "labelSelector": {"zone": "in(a, b)"}}
_HUB = {"repo": "org/m", "revision": "0" * 40, "tokenSecretRef": {"name": "hub"}}
KUBE_RAY_WISHES: dict[str, Any] = {
    "with all defaults": {
        "model": {"source": {"path": "/models/tiny"}},
        "runtime": {"kubeRay": {"image": IMAGE}},
    },
    "with a claim": {
        "model": {"source": {"pvc": {"claimName": "models", "path": "tiny"}}},
        "runtime": {"kubeRay": {"image": IMAGE}},
    },
    "with an image": {
        "model": {"source": {"image": {"reference": "registry.example.org/tiny:1"}}},
        "runtime": {"kubeRay": {"image": IMAGE}},
    },
    "with all that can be set": {
        "model": {"source": {"huggingFace": _HUB}, "servedName": "org/m", "dtype": "bfloat16"},
        "experts": {"shards": 3, "slotsPerShard": 12, "copies": {"min": 2}, "resources": _ASKED},
        "attention": {
            "minReplicas": 2,
            "maxReplicas": 5,
            "targetOngoingRequests": 9,
            "resources": {"gpus": 1},
            "limits": {"maxBatchTokens": 256, "maxRunning": 8, "kvCacheTokens": 4096},
        },
        "api": {"minReplicas": 3, "maxReplicas": 6, "targetOngoingRequests": 70},
        "serving": {**WISHES["with all that can be set"]["serving"], "apiKeysSecretRef": {"name": "keys"}},
        "rebalance": {"mode": "Auto", "maxBytesPerSecond": "100Mi", "record": {"path": "/var/lib/moe-traces"}},
        "sleep": {"afterIdle": "30m"},
        "runtime": {
            "kubeRay": {
                "image": IMAGE,
                "imagePullPolicy": "Always",
                "imagePullSecrets": [{"name": "pull"}],
                "serviceAccountName": "moe",
                "priorityClassName": "high",
                "volumes": [{"name": "traces", "claimName": "traces", "mountPath": "/var/lib/moe-traces"}],
                "upgrade": {"strategy": "None", "deletionDelaySeconds": 900},
                "head": {
                    **_PODS,
                    "gcsFaultTolerance": {"redisAddress": "redis:6379", "passwordSecretRef": {"name": "redis"}},
                },
                "attentionWorkers": _PODS,
                "expertWorkers": {**_PODS, "spares": 1, "topologySpreadConstraints": [{"topologyKey": "zone"}]},
            }
        },
    },
}
"""Likewise, as users of 0.2.0 could: no release before had it."""


def fields() -> dict[str, list[str]]:
    """Those of each wire type."""
    return {kind.__name__: sorted(kind.model_fields) for kind in wire_types()}


def wire_types() -> Iterator[type[WireModel]]:
    """All that there are."""
    for each in pkgutil.walk_packages(moe_contract.__path__, "moe_contract."):
        module = importlib.import_module(each.name)
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, WireModel) and found.__module__ == each.name:
                yield found


def deployment(spec: Any) -> MoEDeployment:
    """One with that spec."""
    metadata = {"name": "tiny", "namespace": "team", "uid": "u-1"}
    return MoEDeployment.parse(
        {"apiVersion": "moe-operator.io/v1alpha1", "kind": "MoEDeployment", "metadata": metadata, "spec": spec}
    )


def rendered(spec: Any, contract: int | None = None) -> Any:
    """The Serve applications that the operator wants of it, beside a data plane of ``contract``."""
    moe = deployment(spec)
    desired = _desired(moe, runtime_state(ServeState(), moe), {} if contract is None else {"contract": contract})
    return json.loads(json.dumps(change_of(moe, desired).applications))


def ray_service(spec: Any) -> Any:
    """Spec of the RayService that the operator wants of it, beside a data plane of this release; what Serve is told is
    read."""
    moe = deployment(spec)
    nothing = kube_ray.runtime_state(moe, None, Clusters(), None, {}, now=_NOW)
    config = serve_config(_desired(moe, nothing, {"contract": CONTRACT}))
    wanted = build_ray_service(moe, config, moe.spec.experts.shards, TOKEN)["spec"]
    return json.loads(json.dumps(wanted | {SERVE_CONFIG: json.loads(config)}))


def _desired(moe: MoEDeployment, runtime: RuntimeState, told: dict[str, Any]) -> Desired:
    """What is to run; ``told``: by its directory, beside what is the same of each."""
    shards = tuple(ShardReport(index=index, phase="Ready") for index in range(moe.spec.experts.shards))
    there = Progress(copied=0, total=0, settled=True)
    heard = DirectoryReport(term=1, revision=0, epoch=0, model=FACTS, shards=shards, progress=there, **told)
    keys = KeyHashes("0" * 64, ("1" * 64,))
    desired = next_intent(World(moe=moe, now=_NOW, runtime=replace(runtime, report=heard), keys=keys)).desired
    assert desired is not None
    return desired


if __name__ == "__main__":
    release = {
        "fields": fields(),
        "rendered": {name: rendered(spec) for name, spec in WISHES.items()},
        "ray_services": {name: ray_service(spec) for name, spec in KUBE_RAY_WISHES.items()},
    }
    json.dump(release, sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
