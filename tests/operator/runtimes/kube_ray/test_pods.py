"""What keeps pods from being made, from coming up and from staying, as reason and message."""

from typing import Any

import pytest
from kube_ray_objects import IMAGE, kube_ray_deployment

from moe_operator.api import Reason
from moe_operator.finding import Finding
from moe_operator.kube.api import Json
from moe_operator.runtimes.kube_ray.pods import pods_problem
from moe_operator.runtimes.kube_ray.stores import ENDED_SECONDS, PodStore

ROLE = {"moe-operator.io/deployment": "tiny", "moe-operator.io/component": "expert-shard", "ray.io/cluster": "tiny-1"}
BACK_OFF = {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}


def pod(name: str = "p", *, goes: bool = False, **status: Any) -> Json:
    metadata = {"name": name, "namespace": "team", "uid": f"u-{name}", "resourceVersion": "1", "labels": ROLE}
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if goes else {}
    return {"metadata": {**metadata, **gone}, "status": status}


def problem(pods: list[Json], cluster: Json | None = None) -> Finding | None:
    """Of a deployment whose model is on nodes."""
    return pods_problem(kube_ray_deployment(), pods, cluster)


def container(state: Json, last: Json | None = None, name: str = "ray-worker") -> Json:
    return {"name": name, "state": state, **({"lastState": {"terminated": last}} if last else {})}


def waiting(reason: str, message: str = "", last: Json | None = None) -> Json:
    return {"containerStatuses": [container({"waiting": {"reason": reason, "message": message}}, last)]}


def unscheduled(message: str) -> Json:
    return {"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}


OOM = {"reason": "OOMKilled", "exitCode": 137}
ERROR = {"reason": "Error", "exitCode": 1}
SAYS = [
    (
        waiting("ErrImagePull", "not found"),
        Reason.IMAGE_PULL_FAILED,
        "pod p container ray-worker waits: ErrImagePull: not found; see that spec.runtime.kubeRay.image exists, and "
        "that spec.runtime.kubeRay.imagePullSecrets let nodes pull it",
    ),
    (waiting("ImagePullBackOff"), Reason.IMAGE_PULL_FAILED, "pod p container ray-worker waits: ImagePullBackOff: no"),
    (
        {"initContainerStatuses": [container({"waiting": {"reason": "InvalidImageName"}}, name="wait-gcs-ready")]},
        Reason.IMAGE_PULL_FAILED,
        "pod p container wait-gcs-ready waits: InvalidImageName",
    ),
    (
        unscheduled("0/2 nodes are available: 2 Insufficient memory."),
        Reason.UNSCHEDULABLE,
        "pod p has no node: 0/2 nodes are available: 2 Insufficient memory.; add nodes, make room, or ask for less in "
        "spec.runtime.kubeRay.expertWorkers (resources, nodeSelector, tolerations)",
    ),
    (
        unscheduled('persistentvolumeclaim "models" not found'),
        Reason.VOLUME_MISSING,
        'pod p has no node: persistentvolumeclaim "models" not found; make the PersistentVolumeClaim, or put '
        "spec.runtime.kubeRay.volumes right",
    ),
    (unscheduled("pod has unbound immediate PersistentVolumeClaims"), Reason.VOLUME_MISSING, "pod p has no node: pod"),
    (
        waiting("CreateContainerConfigError", 'secret "redis" not found'),
        Reason.CONTAINER_REFUSED,
        'pod p container ray-worker waits: CreateContainerConfigError: secret "redis" not found; make what it names',
    ),
    (
        waiting("CrashLoopBackOff", "back-off", last=OOM),
        Reason.OUT_OF_MEMORY,
        "pod p container ray-worker waits: CrashLoopBackOff: back-off; it ended with OOMKilled, exit code 137; raise "
        "spec.runtime.kubeRay.expertWorkers.resources.limits.memory",
    ),
    (
        waiting("CrashLoopBackOff", "back-off", last=ERROR),
        Reason.CONTAINER_ENDED,
        "pod p container ray-worker waits: CrashLoopBackOff: back-off; it ended with Error, exit code 1; its log says "
        "why: kubectl logs p -c ray-worker --previous",
    ),
    (
        {"phase": "Failed", "containerStatuses": [container({"terminated": OOM})]},
        Reason.OUT_OF_MEMORY,
        "pod p container ray-worker ended: OOMKilled, exit code 137; raise",
    ),
    (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
        Reason.POD_WAITING,
        "pod p failed: Evicted: The node was low on resource: memory.",
    ),
    (waiting("Odd"), Reason.POD_WAITING, "pod p container ray-worker waits: Odd: no message; kubectl describe pod p"),
]


@pytest.mark.parametrize(("status", "reason", "begins"), SAYS, ids=[f"{s[1]}-{n}" for n, s in enumerate(SAYS)])
def test_what_keeps_a_pod(status: Json, reason: Reason, begins: str) -> None:
    found = problem([pod(**status)])
    assert found is not None
    assert found.reason is reason
    assert found.message.startswith(begins)


MODEL = "registry.example.org/tiny"
SOURCE_IMAGE = {"image": {"reference": MODEL}}
VOLUME = {"name": "v", "claimName": "models", "mountPath": "/v"}
OF_PODS, OF_MODEL = "spec.runtime.kubeRay.image exists", "spec.model.source.image.reference exists"
CLAIM_OF_MODEL = "or put spec.model.source.pvc.claimName right"
CAUSES: list[tuple[Json, Json, Json, str]] = [
    # spec.model.source, fields of spec.runtime.kubeRay, what a pod says, the field that the cure names
    (SOURCE_IMAGE, {}, waiting("ImagePullBackOff", f'Back-off pulling image "{MODEL}": not found'), OF_MODEL),
    (SOURCE_IMAGE, {}, waiting("ErrImagePull", f'failed to pull image "{MODEL}:latest"'), OF_MODEL),
    (SOURCE_IMAGE, {}, waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"'), OF_PODS),
    (
        SOURCE_IMAGE,
        {},
        waiting("ErrImagePull", "no such host"),
        "spec.runtime.kubeRay.image or spec.model.source.image.reference exists",
    ),
    ({"pvc": {"claimName": "gone"}}, {}, unscheduled('persistentvolumeclaim "gone" not found'), CLAIM_OF_MODEL),
    ({"pvc": {"claimName": "gone"}}, {}, unscheduled("unbound immediate PersistentVolumeClaims"), CLAIM_OF_MODEL),
    (
        {"pvc": {"claimName": "gone"}},
        {"volumes": [VOLUME]},
        unscheduled('persistentvolumeclaim "models" not found'),
        "or put spec.runtime.kubeRay.volumes right",
    ),
    (
        {"pvc": {"claimName": "gone"}},
        {"volumes": [VOLUME]},
        unscheduled("unbound immediate PersistentVolumeClaims"),
        "or put spec.runtime.kubeRay.volumes or spec.model.source.pvc.claimName right",
    ),
]


@pytest.mark.parametrize(("source", "kube_ray", "status", "says"), CAUSES)
def test_the_cure_names_the_field_that_is_the_cause(source: Json, kube_ray: Json, status: Json, says: str) -> None:
    moe = kube_ray_deployment(kube_ray, spec={"model": {"source": source}})
    found = pods_problem(moe, [pod(**status)])
    assert found is not None
    assert found.message.count("spec.") == says.count("spec.") + found.message.count("imagePullSecrets")
    assert says in found.message


@pytest.mark.parametrize(
    ("message", "resources", "says"),
    [
        ("3 Insufficient nvidia.com/gpu.", {"gpus": 1}, "ask for less in spec.experts.resources.gpus"),
        ("3 Insufficient nvidia.com/gpu.", None, "ask for less in spec.runtime.kubeRay.expertWorkers (resources,"),
        (
            "3 node(s) didn't match Pod's node affinity/selector.",
            {"accelerator": "H100"},
            "ask for less in spec.experts.resources.accelerator",
        ),
        (
            "3 node(s) didn't match Pod's node affinity/selector, 1 Insufficient nvidia.com/gpu.",
            {"accelerator": "H100", "gpus": 1},
            "ask for less in spec.experts.resources.gpus or spec.experts.resources.accelerator",
        ),
        (
            "3 Insufficient nvidia.com/gpu.",
            {"accelerator": "H100"},
            "ask for less in spec.experts.resources or spec.runtime.kubeRay.expertWorkers (resources, nodeSelector",
        ),
    ],
)
def test_what_no_node_has_is_told_by_the_field_that_asks_for_it(message: str, resources: Any, says: str) -> None:
    moe = kube_ray_deployment(**({"resources": resources} if resources else {}))
    found = pods_problem(moe, [pod(**unscheduled(message))])
    assert found is not None
    assert found.reason is Reason.UNSCHEDULABLE
    assert says in found.message


FINE = {
    "comes up": waiting("ContainerCreating"),
    "waits for the head": {"initContainerStatuses": [container({"running": {}})], **waiting("PodInitializing")},
    "runs": {"phase": "Running", "containerStatuses": [container({"running": {}}, last=ERROR)]},
    "has ended as it should": {"phase": "Succeeded", "containerStatuses": [container({"terminated": {"exitCode": 0}})]},
    "says nothing": {},
}


@pytest.mark.parametrize("status", FINE.values(), ids=FINE)
def test_what_keeps_none(status: Json) -> None:
    assert problem([pod(**status)]) is None


def test_the_end_of_a_pod_that_was_asked_to_go_is_no_news() -> None:
    assert problem([pod(goes=True, containerStatuses=[container({"terminated": ERROR})])]) is None


def test_of_several_pods_the_first_by_name_is_told() -> None:
    found = problem([pod("b", **waiting("Odd")), pod("a"), pod("c", **unscheduled("none"))])
    assert found is not None
    assert found.message.startswith("pod b ")


def test_what_others_say_is_bounded_and_on_one_line() -> None:
    found = problem([pod("n" * 253, **waiting("Bad\x1b[31m" + "r" * 9999, "line\n" * 9999))])
    assert found is not None
    assert len(found.message) < 1500
    assert found.message.isprintable()


def ray_cluster(message: str, status: str = "True") -> Json:
    failure = {"type": "ReplicaFailure", "status": status, "reason": "FailedCreateWorkerPod", "message": message}
    return {"metadata": {"name": "tiny-1"}, "status": {"conditions": [failure]}}


def test_a_quota_is_told_without_the_name_of_a_pod_that_is_another_one_each_time() -> None:
    said = (
        'pods "tiny-1-experts-worker-{}" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: 3'
    )
    first, second = (
        problem([], ray_cluster("FailedCreateWorkerPod\n" + said.format(each))) for each in ("abcde", "fghij")
    )
    assert first == second
    assert first is not None
    assert first.reason is Reason.QUOTA_EXCEEDED
    assert first.message == (
        "KubeRay cannot make or remove a pod of RayCluster tiny-1: exceeded quota: q, requested: pods=1, used: pods=3, "
        "limited: 3; raise the ResourceQuota of the namespace, or ask for less"
    )


def test_what_else_kube_ray_cannot_make_is_told_and_what_is_over_is_not() -> None:
    found = problem([], ray_cluster("FailedCreateHeadPod\nviolates PodSecurity"))
    assert found is not None
    assert (found.reason, found.message.rpartition(": ")[2]) == (Reason.POD_WAITING, "violates PodSecurity")
    assert problem([], ray_cluster("", "False")) is None


def test_how_a_pod_ended_is_told_for_a_minute_though_it_is_gone() -> None:
    now = 0.0
    store = PodStore(lambda: now)
    last = pod(phase="Failed", containerStatuses=[container({"terminated": OOM})])
    store.put(last, watched=True)
    gone = {**last, "metadata": {**last["metadata"], "resourceVersion": "2"}}
    store.remove(gone)
    assert list(store.all()) == []
    told = store.end("team/tiny", "tiny-1")
    assert told is not None
    assert told.reason is Reason.OUT_OF_MEMORY
    assert store.end("team/tiny", "tiny-2") is None
    now = ENDED_SECONDS + 1.0
    assert store.end("team/tiny", "tiny-1") is None


def test_a_pod_that_was_asked_to_go_is_there_until_it_is_deleted() -> None:
    store = PodStore()
    store.put(pod(goes=True), watched=True)
    assert store.get("team/p") is not None
