"""``spec.runtime.kubeRay``: a Ray cluster of the deployment's own, run by KubeRay. Pod fields are Kubernetes' own."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from moe_operator.api.base import ApiModel, ObjectName
from moe_operator.api.rules import QUOTED_SELF, Rule, required_with_cure, validations

IMAGE_CURE = "write e.g. image: registry.example.org/moe-serving:0.2.0"

Quantities = Annotated[
    dict[str, Annotated[str, Field(max_length=32, pattern=r"^[0-9]+([.][0-9]+)?([eE][+-]?[0-9]+|[numkKMGTPE]i?)?$")]],
    Field(max_length=16),
]
"""As Kubernetes writes amounts, such as ``500m`` or ``4Gi``."""
Labels = Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=16)]


class PodResources(ApiModel):
    """What the Ray container of a pod asks Kubernetes for."""

    requests: Quantities = Field(default_factory=dict)
    """At least so much, by resource: such as cpu: 500m, memory: 2Gi."""
    limits: Quantities = Field(default_factory=dict)
    """At most so much. Ray counts the memory limit of a pod as its memory."""


class Toleration(ApiModel):
    """A taint that pods of this group tolerate, as in a pod's own spec."""

    key: Annotated[str | None, Field(max_length=317)] = None
    """Key of the taint; empty for all."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the value counts."""
    value: Annotated[str | None, Field(max_length=63)] = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; default: all."""
    toleration_seconds: int | None = None
    """For NoExecute: for how long it is tolerated. Default: for ever."""


class TopologySpread(ApiModel):
    """How pods of this group are spread over nodes, as in a pod's own spec; the selector is the operator's."""

    max_skew: int = Field(default=1, ge=1)
    """By how many pods two domains may differ."""
    topology_key: str = Field(default="kubernetes.io/hostname", min_length=1, max_length=317)
    """Label of nodes whose values are the domains."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """Whether a pod waits that cannot be placed so."""


class PodGroup(ApiModel):
    """Pods of one kind."""

    resources: PodResources = PodResources()
    """What the Ray container of a pod asks Kubernetes for."""
    node_selector: Labels = Field(default_factory=dict)
    """Labels that a pod's node must have."""
    tolerations: list[Toleration] = Field(default_factory=list, max_length=16)
    """Taints that are tolerated."""


class WorkerGroup(PodGroup):
    """Pods of one kind whose number follows what runs on them."""

    topology_spread_constraints: list[TopologySpread] = Field(default_factory=lambda: [TopologySpread()], max_length=4)
    """How the pods are spread. Default: over distinct nodes, where there are any."""


class ExpertWorkerGroup(WorkerGroup):
    """Pods of expert shards."""

    spares: int = Field(default=0, ge=0, le=64)
    """Pods on which no shard runs, kept so that a shard whose pod is lost starts anew at once."""


class SecretKeyRef(ApiModel):
    """One value in a Secret of the namespace; the pods read it, the operator does not."""

    name: ObjectName
    """Name of the Secret."""
    key: str = Field(default="password", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")
    """Key in it."""


class GcsFaultTolerance(ApiModel):
    """Where the head keeps its state, so that its death ends no worker."""

    redis_address: str = Field(
        max_length=512,
        json_schema_extra=validations(
            Rule(
                rule=r"self.matches(r'^(rediss?://)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$')",
                message="spec.runtime.kubeRay.head.gcsFaultTolerance.redisAddress is %s: write e.g. redis:6379",
                values=(QUOTED_SELF,),
            )
        ),
    )
    """Host and port of a Redis, such as redis:6379."""
    password_secret_ref: SecretKeyRef | None = None
    """Where its password is. Default: none is sent."""


class Head(PodGroup):
    """The head pod: Ray's own processes, and none of the model's."""

    gcs_fault_tolerance: GcsFaultTolerance | None = None
    """Where the head keeps its state, so that its death ends no worker. Default: nowhere; when the head dies, the \
pods of all workers end, and others come."""


class UpgradeStrategy(StrEnum):
    """What a change of image, resources or other fields of pods does."""

    NEW_CLUSTER = "NewCluster"
    NONE = "None"


class Upgrade(ApiModel):
    """How a change of image, resources or other fields of pods comes into effect."""

    strategy: UpgradeStrategy = UpgradeStrategy.NEW_CLUSTER
    """NewCluster: a second Ray cluster is started beside the first, which takes twice the capacity for that time, and \
requests go there once it serves. None: nothing happens until it is NewCluster."""
    deletion_delay_seconds: int = Field(default=300, ge=30, le=86400)
    """For how long the former Ray cluster stays after KubeRay has turned to the new one. It must outlast the loading \
of the experts there and the streams that run here."""


class Volume(ApiModel):
    """A PersistentVolumeClaim of the namespace, mounted in every pod."""

    name: str = Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    """Its name in the pods."""
    claim_name: ObjectName
    """The PersistentVolumeClaim."""
    mount_path: str = Field(max_length=1024, pattern=r"^/[^:]*$")
    """Where it is mounted."""
    read_only: bool = True
    """Whether the pods may only read it."""


class ImagePullSecret(ApiModel):
    """A Secret by which nodes pull the image; the operator does not read it."""

    name: ObjectName
    """Its name, in the namespace of the MoEDeployment."""


class ApiPeer(ApiModel):
    """Pods that may connect to the API; both labels must fit where both are given."""

    namespace_labels: Labels | None = None
    """Labels of their namespace; {} for all namespaces. Default: the namespace of the MoEDeployment."""
    pod_labels: Labels = Field(default_factory=dict)
    """Labels of the pods. Default: all."""


class KubeRay(ApiModel):
    """A Ray cluster of its own, which KubeRay runs."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            Rule(
                rule="!has(self.volumes) || self.volumes.all(v, self.volumes.exists_one(w, w.name == v.name))",
                message="spec.runtime.kubeRay.volumes has a name twice: give each its own",
                field_path=".volumes",
            )
        )
    )

    image: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            json_schema_extra=required_with_cure(f"spec.runtime.kubeRay.image is missing: {IMAGE_CURE}")
            | validations(
                Rule(
                    rule="self.matches('^[A-Za-z0-9][A-Za-z0-9._:@/-]*$')",
                    message=f"spec.runtime.kubeRay.image is %s: it is no name of an image; {IMAGE_CURE}",
                    values=(QUOTED_SELF,),
                )
            ),
        ),
    ]
    """Image of all pods, with moe-operator[serving] of the operator's release in it."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull the image."""
    image_pull_secrets: list[ImagePullSecret] = Field(default_factory=list, max_length=16)
    """Secrets by which nodes pull the image."""
    service_account_name: ObjectName | None = None
    """ServiceAccount of the pods. Default: the namespace's own, and one of KubeRay's making for the head."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods."""
    volumes: list[Volume] = Field(default_factory=list, max_length=16)
    """PersistentVolumeClaims, mounted in every pod: such as the one that holds the model."""
    upgrade: Upgrade = Upgrade()
    """How a change of image, resources or other fields of pods comes into effect."""
    head: Head = Head()
    """The head pod: Ray's own processes, and none of the model's."""
    attention_workers: WorkerGroup = WorkerGroup()
    """Pods of attention replicas, one in each, and of api replicas and the directory beside them."""
    expert_workers: ExpertWorkerGroup = ExpertWorkerGroup()
    """Pods of expert shards, one in each."""
    api_from: list[ApiPeer] = Field(default_factory=list, max_length=16)
    """Pods that may connect to the API. Default: all."""
