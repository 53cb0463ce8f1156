"""Why pods are not made, do not come up, or do not stay; each with its cure. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moe_operator.api import MoEDeployment, Reason
from moe_operator.api.names import COMPONENT_ATTENTION, COMPONENT_HEAD, COMPONENT_SHARD, LABEL_COMPONENT
from moe_operator.finding import Finding
from moe_operator.kube.api import Json
from moe_operator.kube.store import goes
from moe_operator.runtimes.kube_ray.manifests.names import LABEL_CLUSTER
from moe_operator.runtimes.kube_ray.manifests.pods import GPU
from moe_operator.text import on_one_line, steadied

_ON_THE_WAY = frozenset({"ContainerCreating", "PodInitializing"})
_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_SAID = 400
"""Characters of what Kubernetes says; names and our own words come to less than as many again."""
_FIELDS = {COMPONENT_HEAD: "head", COMPONENT_ATTENTION: "attentionWorkers", COMPONENT_SHARD: "expertWorkers"}
"""Of spec.runtime.kubeRay, by the component of a pod."""
_PROCESSES = {COMPONENT_ATTENTION: "attention", COMPONENT_SHARD: "experts"}
"""Of spec, likewise: what the process asks for that a pod is for."""
_REFUSED_POD = re.compile(r'^pods "[^"]*" is forbidden: ')
"""The name is another one at each attempt."""
_VOLUME = re.compile(r"persistentvolumeclaim|PersistentVolumeClaim")
_VOLUMES = "spec.runtime.kubeRay.volumes"
_QUOTED = re.compile(r'"([^"]*)"')
_READ = 10 * _SAID
"""Characters of a message in which names are looked for."""


@dataclass(frozen=True, slots=True)
class _Pod:
    """One pod, in the words that its messages begin and end with."""

    live: Json

    @property
    def name(self) -> str:
        return str(self.live["metadata"]["name"])

    @property
    def status(self) -> Mapping[str, Any]:
        return self.live.get("status") or {}

    @property
    def field(self) -> str:
        """Of the spec, by which pods of its kind are set."""
        component = component_of(self.live)
        return "spec.runtime.kubeRay" + (f".{_FIELDS[component]}" if component in _FIELDS else "")

    @property
    def containers(self) -> Iterator[Mapping[str, Any]]:
        yield from self.status.get("initContainerStatuses") or ()
        yield from self.status.get("containerStatuses") or ()

    def found(self, reason: Reason, what: str, cure: str) -> Finding:
        return Finding(reason, f"pod {self.name} {what}; {cure}")


def pods_problem(moe: MoEDeployment, pods: Iterable[Json], ray_cluster: Json | None = None) -> Finding | None:
    """Of the first pod by name that waits for what somebody may have to mend, or has ended by itself; else why KubeRay
    cannot make pods of ``ray_cluster``."""
    for live in sorted(pods, key=lambda each: str(each["metadata"]["name"])):
        pod = _Pod(live)
        # The end of one that is on its way out is no news.
        found = None if goes(live) else next(_waiting(moe, pod), None) or _ended(pod)
        if found:
            return found
    return _not_made(ray_cluster) if ray_cluster else None


def ended(pod: Json) -> Finding | None:
    """How a pod ended by itself; None of one that runs, or was asked to go."""
    return None if goes(pod) else _ended(_Pod(pod))


def cluster_of(pod: Json) -> str | None:
    """The Ray cluster that a pod is of."""
    return _label(pod, LABEL_CLUSTER)


def component_of(pod: Json) -> str | None:
    """What it is for."""
    return _label(pod, LABEL_COMPONENT)


def trimmed_pod(pod: Json) -> Json:
    """What is read of a pod."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "deletionTimestamp", "finalizers")
    status = pod.get("status") or {}
    told = ("phase", "podIP", "conditions", "containerStatuses", "initContainerStatuses", "reason", "message")
    return {
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {key: spec[key] for key in ("nodeName", "tolerations") if key in spec},
        "status": {key: status[key] for key in told if key in status},
    }


def is_ready(pod: Json) -> bool:
    """Whether Kubernetes calls it that."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any((each.get("type"), each.get("status")) == ("Ready", "True") for each in conditions)


def node_of(pod: Json) -> str:
    """The name of its node; empty while it has none."""
    return (pod.get("spec") or {}).get("nodeName") or ""


def _label(pod: Json, name: str) -> str | None:
    return (pod["metadata"].get("labels") or {}).get(name)


def _waiting(moe: MoEDeployment, pod: _Pod) -> Iterator[Finding]:
    for condition in pod.status.get("conditions") or ():
        if (condition.get("type"), condition.get("status")) == ("PodScheduled", "False"):
            yield _without_node(moe, pod, condition)
    for container in pod.containers:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in _ON_THE_WAY:
            yield _held_up(moe, pod, container, waiting)


def _without_node(moe: MoEDeployment, pod: _Pod, condition: Mapping[str, Any]) -> Finding:
    said = _said(condition)
    what = f"has no node: {said}"
    if _VOLUME.search(said):
        cure = f"make the PersistentVolumeClaim, or put {_field_of(condition, _claims(moe)) or _VOLUMES} right"
        return pod.found(Reason.VOLUME_MISSING, what, cure)
    cure = f"add nodes, make room, or ask for less in {_asked_by(moe, pod, said)}"
    return pod.found(Reason.UNSCHEDULABLE, what, cure)


def _asked_by(moe: MoEDeployment, pod: _Pod, said: str) -> str:
    """The fields by which a pod asks for what no node has."""
    section = _PROCESSES.get(component_of(pod.live) or "")
    of_pods = f"{pod.field} (resources, nodeSelector, tolerations)"
    asked = getattr(moe.spec, section).resources if section else None
    if asked is None:
        return of_pods
    by_gpus, by_kind = GPU in said and bool(asked.gpus), "affinity" in said and bool(asked.accelerator)
    named = [name for name, is_cause in (("gpus", by_gpus), ("accelerator", by_kind)) if is_cause]
    return " or ".join(f"spec.{section}.resources.{name}" for name in named) or f"spec.{section}.resources or {of_pods}"


def _held_up(moe: MoEDeployment, pod: _Pod, container: Mapping[str, Any], waiting: Mapping[str, Any]) -> Finding:
    """A container that waits, not on its usual way."""
    reason = str(waiting.get("reason"))
    what = f"container {container.get('name')} waits: {on_one_line(reason)[:64]}: {_said(waiting)}"
    last = (container.get("lastState") or {}).get("terminated")
    if reason in _IMAGE:
        image = _field_of(waiting, _images(moe))
        cure = f"see that {image} exists, and that spec.runtime.kubeRay.imagePullSecrets let nodes pull it"
        return pod.found(Reason.IMAGE_PULL_FAILED, what, cure)
    if reason in _CONFIG:
        cure = "make what it names, or put spec.runtime.kubeRay right"
        return pod.found(Reason.CONTAINER_REFUSED, what, cure)
    if last:
        return _end_of(pod, container, last, f"{what}; it ended with")
    return pod.found(Reason.POD_WAITING, what, f"kubectl describe pod {pod.name} tells more")


def _ended(pod: _Pod) -> Finding | None:
    for container in pod.containers:
        end = (container.get("state") or {}).get("terminated")
        if end and end.get("exitCode"):
            return _end_of(pod, container, end, f"container {container.get('name')} ended:")
    if pod.status.get("phase") == "Failed":
        what = f"failed: {on_one_line(str(pod.status.get('reason')))[:64]}: {_said(pod.status)}"
        return pod.found(Reason.POD_WAITING, what, "another one is made")
    return None


def _end_of(pod: _Pod, container: Mapping[str, Any], end: Mapping[str, Any], what: str) -> Finding:
    how = f"{what} {on_one_line(str(end.get('reason')))[:64]}, exit code {end.get('exitCode')}"
    if end.get("reason") == "OOMKilled":
        return pod.found(Reason.OUT_OF_MEMORY, how, f"raise {pod.field}.resources.limits.memory")
    log = f"kubectl logs {pod.name} -c {container.get('name')} --previous"
    return pod.found(Reason.CONTAINER_ENDED, how, f"its log says why: {log}")


def _not_made(ray_cluster: Json) -> Finding | None:
    """As KubeRay tells it of its RayCluster."""
    for condition in (ray_cluster.get("status") or {}).get("conditions") or ():
        if (condition.get("type"), condition.get("status")) == ("ReplicaFailure", "True"):
            # The kind of failure comes first, on a line of its own.
            _, _, told = str(condition.get("message") or "").partition("\n")
            said = steadied(on_one_line(_REFUSED_POD.sub("", told)))[:_SAID] or str(condition.get("reason"))
            what = f"KubeRay cannot make or remove a pod of RayCluster {ray_cluster['metadata']['name']}: {said}"
            if "exceeded quota" in said or "failed quota" in said:
                cure = "raise the ResourceQuota of the namespace, or ask for less"
                return Finding(Reason.QUOTA_EXCEEDED, f"{what}; {cure}")
            return Finding(Reason.POD_WAITING, what)
    return None


def _images(moe: MoEDeployment) -> Iterator[tuple[str, str]]:
    """Images that pods of a deployment have: the field of its spec, and the name."""
    yield "spec.runtime.kubeRay.image", moe.kube_ray.image
    if (kept_in := moe.spec.model.source.image) is not None:
        yield "spec.model.source.image.reference", kept_in.reference


def _claims(moe: MoEDeployment) -> Iterator[tuple[str, str]]:
    """Its claims, likewise."""
    for volume in moe.kube_ray.volumes:
        yield _VOLUMES, volume.claim_name
    if (kept_in := moe.spec.model.source.pvc) is not None:
        yield "spec.model.source.pvc.claimName", kept_in.claim_name


def _field_of(where: Mapping[str, Any], named: Iterable[tuple[str, str]]) -> str:
    """The field whose name Kubernetes quotes; all, where it quotes none of theirs."""
    quoted = {each.removesuffix(":latest") for each in _QUOTED.findall(str(where.get("message"))[:_READ])}
    all_named = list(named)
    found = [field for field, name in all_named if name.removesuffix(":latest") in quoted]
    return " or ".join(dict.fromkeys(found or [field for field, _ in all_named]))


def _said(where: Mapping[str, Any]) -> str:
    return steadied(on_one_line(str(where.get("message") or "no message")))[:_SAID]
