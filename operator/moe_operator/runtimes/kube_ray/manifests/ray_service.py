"""The RayService. Pure.

Ray's autoscaler owns the numbers of workers, and KubeRay leaves edits of them alone while a cluster runs: what stands
here is with what a new cluster begins, and how few there may be. A shard more or less is an application more or less,
which asks for a pod.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import ceil

from moe_contract.resources import Resources
from moe_contract.sizes import MOST_SHARDS
from moe_operator.api import MoEDeployment
from moe_operator.api.kube_ray import GcsFaultTolerance
from moe_operator.api.names import COMPONENT_ATTENTION, COMPONENT_HEAD, COMPONENT_RAY_SERVICE, COMPONENT_SHARD, GROUP
from moe_operator.api.resources import asked
from moe_operator.kube.api import Json
from moe_operator.kube.children import child_metadata
from moe_operator.kube.resources import RAY_SERVICES
from moe_operator.release import RAY_VERSION
from moe_operator.runtimes.kube_ray.manifests.names import (
    ATTENTION_GROUP,
    ATTENTION_RESOURCE,
    EXPERTS_GROUP,
    SERVE_CONFIG,
    SHARD_RESOURCE,
    token_secret_name,
)
from moe_operator.runtimes.kube_ray.manifests.nodes import ray_labels
from moe_operator.runtimes.kube_ray.manifests.pods import CONTAINER_SECURITY, USER, head_template, worker_template

MOST_ATTENTION = 1000
"""Pods: a bound on the numbers goes to a running cluster by an upgrade alone, so it is one that nobody meets."""
IDLE_SECONDS = 30
"""After which a pod beyond the fewest, on which nothing runs, goes: within a minute of its shard. KubeRay counts this
among what makes a cluster another one: a release that changes it starts every process of all deployments anew."""
_STARTED_WITH = {"object-store-memory": str(100 << 20), "include-log-monitor": "0"}
"""Nothing of size goes by Ray's object store. Nobody reads what a log monitor would send to drivers, and in each pod it
is a process more that has to start. KubeRay leaves out what is ``false``."""
ANNOTATION_POD_FIELDS = f"{GROUP}/pod-fields"
"""On pods: digest of what KubeRay does not count among that for which it starts a new cluster."""


def build_ray_service(moe: MoEDeployment, config: str, shards: int, token: str) -> Json:
    """``config``: for Serve; ``shards``: with which a new cluster begins; ``token``: by which its parts know each
    other, which pods read from their Secret: one that has another token cannot join."""
    kube_ray = moe.kube_ray
    return {
        "apiVersion": RAY_SERVICES.api_version,
        "kind": RAY_SERVICES.kind,
        "metadata": child_metadata(moe, moe.metadata.name, COMPONENT_RAY_SERVICE),
        "spec": {
            SERVE_CONFIG: config,
            # A Serve proxy runs on the head, but no api replica: it need not be in anybody's way there.
            "excludeHeadPodFromServeSvc": True,
            "rayClusterDeletionDelaySeconds": kube_ray.upgrade.deletion_delay_seconds,
            "upgradeStrategy": {"type": kube_ray.upgrade.strategy.value},
            "rayClusterConfig": _cluster(moe, shards, token),
        },
    }


def _cluster(moe: MoEDeployment, shards: int, token: str) -> Json:
    fault_tolerance, fewest = moe.kube_ray.head.gcs_fault_tolerance, fewest_pods(moe, shards)
    return {
        "rayVersion": RAY_VERSION,
        # Its own default leaves Ray open to everybody, and its own Secret is another one after each upgrade.
        "authOptions": {"mode": "token", "secretName": token_secret_name(moe.metadata.name)},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": _autoscaler(moe),
        **({"gcsFaultToleranceOptions": _gcs(fault_tolerance)} if fault_tolerance else {}),
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", **_STARTED_WITH},
            "resources": {"CPU": "0"},
            "template": _marked(head_template(moe, COMPONENT_HEAD), token),
        },
        "workerGroupSpecs": [
            _attention(moe, fewest[ATTENTION_GROUP], token),
            _experts(moe, fewest[EXPERTS_GROUP], token),
        ],
    }


def _attention(moe: MoEDeployment, fewest: int, token: str) -> Json:
    wanted = asked(moe.spec.attention.resources)
    template = worker_template(moe, moe.kube_ray.attention_workers, COMPONENT_ATTENTION, wanted)
    group = _group(ATTENTION_GROUP, fewest, MOST_ATTENTION, _marked(template, token))
    return {**group, **_offered(ATTENTION_RESOURCE, wanted, processors=0)}


def _experts(moe: MoEDeployment, fewest: int, token: str) -> Json:
    wanted = asked(moe.spec.experts.resources)
    template = worker_template(moe, moe.kube_ray.expert_workers, COMPONENT_SHARD, wanted)
    group = _group(EXPERTS_GROUP, fewest, MOST_SHARDS, _marked(template, token))
    return {**group, **_offered(SHARD_RESOURCE, wanted, processors=1)}


def fewest_pods(moe: MoEDeployment, shards: int) -> Mapping[str, int]:
    """By group what Ray's autoscaler keeps though nothing runs there: pods of a new cluster wait for their processes as
    long as the core takes to read the model. Without that they would be taken away as idle, and others started in their
    place, again and again where a start takes longer than ``IDLE_SECONDS``."""
    experts = min(shards + moe.kube_ray.expert_workers.spares, MOST_SHARDS)
    return {ATTENTION_GROUP: moe.spec.attention.min_replicas, EXPERTS_GROUP: experts}


def fewest_steps(moe: MoEDeployment, cluster: Json, shards: int) -> list[Json]:
    """The JSON patch after which a running RayCluster keeps no more pods than it shall; empty where it does.

    Only for spares is it raised. Any other pod comes by the process that asks for it: for a bound that is raised both
    KubeRay and Ray's autoscaler may start one. The list of groups has the autoscaler for a writer too, so single
    entries are written, and only where they are still those.
    """
    raised = EXPERTS_GROUP if moe.kube_ray.expert_workers.spares else None
    steps: list[Json] = []
    for index, group in enumerate(cluster.get("spec", {}).get("workerGroupSpecs", [])):
        name, kept = group.get("groupName"), group.get("minReplicas", 0)
        fewest = fewest_pods(moe, shards).get(name, kept)
        if fewest < kept or (fewest > kept and name == raised):
            path = f"/spec/workerGroupSpecs/{index}"
            steps.append({"op": "test", "path": f"{path}/groupName", "value": name})
            steps.append({"op": "add", "path": f"{path}/minReplicas", "value": fewest})
    return steps


def _offered(resource: str, wanted: Resources, processors: int) -> Json:
    """What a pod offers to Ray, which starts as many pods as offer what is asked for. Of ours nobody asks for
    ``processors``: for each of them Ray starts a process beforehand, where it is told to (``pods``)."""
    offered = {"CPU": str(processors), resource: "1"}
    if wanted.gpus:
        offered["GPU"] = str(ceil(wanted.gpus))
    if wanted.accelerator:
        offered[f"accelerator_type:{wanted.accelerator}"] = "1"
    labels = ray_labels(wanted)
    return {"resources": offered, **({"labels": labels} if labels else {})}


def _group(name: str, fewest: int, most: int, template: Json) -> Json:
    return {
        "groupName": name,
        "replicas": fewest,
        "minReplicas": fewest,
        "maxReplicas": most,
        "idleTimeoutSeconds": IDLE_SECONDS,
        "rayStartParams": dict(_STARTED_WITH),
        "template": template,
    }


def _autoscaler(moe: MoEDeployment) -> Json:
    return {
        "version": "v2",
        "imagePullPolicy": moe.kube_ray.image_pull_policy,
        "idleTimeoutSeconds": IDLE_SECONDS,
        "env": [
            {"name": "AUTOSCALER_UPDATE_INTERVAL_S", "value": "1"},
            # Else a pod whose application has gone stays for as long as it is Pending.
            {"name": "RAY_AUTOSCALER_PENDING_NODE_IDLE_TIMEOUT_S", "value": "10"},
            {"name": "HOME", "value": "/tmp"},
        ],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": {**CONTAINER_SECURITY, "runAsUser": USER},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}},
    }


def _gcs(wanted: GcsFaultTolerance) -> Json:
    ref = wanted.password_secret_ref
    password = {"valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}} if ref else None
    return {"redisAddress": wanted.redis_address, **({"redisPassword": password} if password else {})}


def _marked(template: Json, token: str) -> Json:
    """With a digest of the tolerations and of the token, for which alone KubeRay would start no new cluster."""
    counted = [template["spec"].get("tolerations"), token]
    digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]
    return {**template, "metadata": {**template["metadata"], "annotations": {ANNOTATION_POD_FIELDS: digest}}}
