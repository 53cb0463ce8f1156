"""Pod templates. Pure. They pass the ``restricted`` Pod Security Standard, with a root that cannot be written to."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from moe_contract.pods import LEAVING_FILE_VARIABLE
from moe_contract.resources import Resources
from moe_operator.api import MoEDeployment
from moe_operator.api.kube_ray import PodGroup, TopologySpread, WorkerGroup
from moe_operator.api.names import (
    COMPONENT_ATTENTION,
    COMPONENT_SHARD,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    child_labels,
)
from moe_operator.kube.api import Json
from moe_operator.runtimes.kube_ray.manifests.model import mount_model
from moe_operator.runtimes.kube_ray.manifests.names import LABEL_CLUSTER, PORTS, WORKER_CONTAINER
from moe_operator.runtimes.kube_ray.manifests.nodes import node_affinity

USER = 1000
GPU = "nvidia.com/gpu"

CONTAINER_SECURITY: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Said of the container too: KubeRay copies it to the one that waits for the head."""

LEAVING_FILE = "/tmp/moe-leaving"
UNNOTICED_SECONDS = 3
"""For which a pod of attention that is asked to end goes on as before: meanwhile connections may be led to it."""
ANSWERS_SECONDS = 30
"""For which answers may go on in it; what is under way then ends with an error event."""
GRACE_SECONDS = 40
"""After which it is killed. Ray takes 30 s at most from when the hook has ended, and some to end what is left."""

_ENVIRONMENT = {
    "HOME": "/tmp",
    # Ray's processes write below it; the root cannot be written to.
    "TMPDIR": "/tmp",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A worker per core that nobody asked for would slow the start.
    "RAY_prestart_worker_first_driver": "0",
    # By default 15: all that serves requests would starve beside anything else on the node.
    "RAY_worker_niceness": "0",
    # A process that failed its health checks is asked to drain for as long as draining may take, unless told not to.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # By default each of Serve's processes wakes ten times a second to export metrics.
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "moe_serving.serve.proxy:set_up",
    # By default 30: a pod whose shard has gone would be kept for so long by its proxy.
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "2",
}

_HEAD_READY: Json = {
    "httpGet": {"path": "/api/healthz", "port": 52365},
    "initialDelaySeconds": 1,
    "periodSeconds": 2,
    "timeoutSeconds": 5,
    "failureThreshold": 25,
}
"""What KubeRay itself asks of a head, with as much patience, but not after 10 s and each 5 s then: before a head is
ready it tells Serve nothing."""
_WARM = {
    # As many as the pod has processors in Ray's counting.
    "RAY_enable_worker_prestart": "1",
    "RAY_preload_python_modules": "moe_serving.serve.warm",
}
"""Of pods for shards: a process that waits for a shard there, and has imported all that one needs."""
_CONNECT = f"exec 3<>/dev/tcp/$FQ_RAY_IP/{PORTS['gcs-server']}"
_FOR_HEAD = f"until timeout 2 bash -c '{_CONNECT}'; do sleep 0.5; done"
"""KubeRay writes the head's name into the environment of init containers, and needs bash itself. A worker that starts
while nobody knows that name yet would take a wrong address for its own."""


def head_template(moe: MoEDeployment, component: str) -> Json:
    """The head's."""
    ports = [{"name": name, "containerPort": port} for name, port in PORTS.items()]
    return _template(moe, moe.kube_ray.head, component, "ray-head", {"ports": ports, "readinessProbe": _HEAD_READY})


def worker_template(moe: MoEDeployment, group: WorkerGroup, component: str, wanted: Resources) -> Json:
    """Those of one group of workers; ``wanted``: what the process asks for that a pod is for."""
    template = _template(moe, group, component, WORKER_CONTAINER, {})
    if wanted.gpus:
        (container,) = template["spec"]["containers"]
        resources = container.setdefault("resources", {})
        resources["limits"] = {GPU: str(ceil(wanted.gpus)), **resources.get("limits", {})}
    if affinity := node_affinity(wanted):
        template["spec"]["affinity"] = {"nodeAffinity": affinity}
    spread = [_spread(moe, component, each) for each in group.topology_spread_constraints]
    template["spec"] |= {"topologySpreadConstraints": spread} if spread else {}
    if component == COMPONENT_ATTENTION:
        _let_answers_end(template["spec"])
    if component == COMPONENT_SHARD:
        template["spec"]["containers"][0]["env"] += [{"name": key, "value": value} for key, value in _WARM.items()]
    mount_model(moe, template["spec"])
    template["spec"]["initContainers"] = [_wait_for_head(moe)]
    return template


def _let_answers_end(pod: Json) -> None:
    """Clients are connected to pods of attention. Asked to end, Ray has Serve send requests elsewhere, and waits for
    what is under way."""
    end = f"echo $(($(date +%s) + {ANSWERS_SECONDS})) > {LEAVING_FILE}; sleep {UNNOTICED_SECONDS}"
    (container,) = pod["containers"]
    container["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sh", "-c", end]}}}
    container["env"].append({"name": LEAVING_FILE_VARIABLE, "value": LEAVING_FILE})
    pod["terminationGracePeriodSeconds"] = GRACE_SECONDS


def _wait_for_head(moe: MoEDeployment) -> Json:
    """KubeRay's own init container waits for the same with Ray's command line, with a fifth of a processor,
    so it takes seconds of each pod's start. With this one it can be left out."""
    return {
        "name": "wait-for-head",
        "image": moe.kube_ray.image,
        "imagePullPolicy": moe.kube_ray.image_pull_policy,
        "command": ["/bin/bash", "-c", _FOR_HEAD],
        "securityContext": dict(CONTAINER_SECURITY),
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
    }


def _template(moe: MoEDeployment, group: PodGroup, component: str, name: str, more: Json) -> Json:
    kube_ray = moe.kube_ray
    volumes = [
        {"name": v.name, "persistentVolumeClaim": {"claimName": v.claim_name, "readOnly": v.read_only}}
        for v in kube_ray.volumes
    ]
    mounts = [{"name": v.name, "mountPath": v.mount_path, "readOnly": v.read_only} for v in kube_ray.volumes]
    container = {
        "name": name,
        "image": kube_ray.image,
        "imagePullPolicy": kube_ray.image_pull_policy,
        "env": [{"name": key, "value": value} for key, value in _ENVIRONMENT.items()],
        "securityContext": dict(CONTAINER_SECURITY),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *mounts],
        **_without_empty({"resources": _without_empty(group.resources.model_dump(by_alias=True))}),
        **more,
    }
    tolerations = [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in group.tolerations]
    spec = {
        "containers": [container],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "tmp", "emptyDir": {}}, *volumes],
        **_without_empty(
            {
                "imagePullSecrets": [{"name": each.name} for each in kube_ray.image_pull_secrets],
                "serviceAccountName": kube_ray.service_account_name,
                "priorityClassName": kube_ray.priority_class_name,
                "nodeSelector": dict(group.node_selector),
                "tolerations": tolerations,
            }
        ),
    }
    return {"metadata": {"labels": child_labels(moe.metadata.name, component)}, "spec": spec}


def _spread(moe: MoEDeployment, component: str, wanted: TopologySpread) -> Json:
    selector = {LABEL_DEPLOYMENT: moe.metadata.name, LABEL_COMPONENT: component}
    return {
        "maxSkew": wanted.max_skew,
        "topologyKey": wanted.topology_key,
        "whenUnsatisfiable": wanted.when_unsatisfiable,
        "labelSelector": {"matchLabels": selector},
        # While there are two Ray clusters, the pods of each are spread by themselves.
        "matchLabelKeys": [LABEL_CLUSTER],
    }


def _without_empty(fields: Mapping[str, Any]) -> Json:
    return {key: value for key, value in fields.items() if value}
