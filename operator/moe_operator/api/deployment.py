"""A MoEDeployment as the operator reads it from the API server."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, ValidationError

from moe_contract.applications import ModelArgs
from moe_contract.sizes import MOST_EXPERTS
from moe_operator.api.annotations import is_paused
from moe_operator.api.base import ApiModel
from moe_operator.api.kube_ray import KubeRay
from moe_operator.api.names import ANNOTATION_PAUSE, API_PORT, CLEANUP_FINALIZER, GROUP, api_service_name
from moe_operator.api.resources import asked
from moe_operator.api.rules import Rule, validations
from moe_operator.api.spec import MoEDeploymentSpec, RayCluster
from moe_operator.api.status import MoEDeploymentStatus
from moe_operator.errors import InvalidObjectError

MAX_NAME = 40
"""Children and their parts add to the name, and most names in Kubernetes end at 63 characters."""

NAME_RULE = Rule(
    rule=f"self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= {MAX_NAME}",
    message=(
        "metadata.name is '%s' (%s characters): "
        f"use at most {MAX_NAME} lower-case letters, digits and '-', beginning with a letter"
    ),
    values=("self.metadata.name", "self.metadata.name.size()"),
    field_path=".metadata",
)


def _ours(annotations: Any) -> Any:
    """Those of this operator: others may be many and long."""
    if not isinstance(annotations, Mapping):
        return annotations
    return {key: value for key, value in annotations.items() if str(key).startswith(f"{GROUP}/")}


_SHARDS, _COPIES, _EXPERTS = "self.spec.experts.shards", "self.spec.experts.copies.min", "self.status.model.experts"
_SLOTS = "(has(self.spec.experts.slotsPerShard) ? self.spec.experts.slotsPerShard : self.status.slotsPerShard)"
_USED = f"({_SLOTS} < {_EXPERTS} ? {_SLOTS} : {_EXPERTS})"

SCALE_RULE = Rule(
    # Of fewer shards alone: all that is written beside them, a status and the removal of a finalizer among it, must
    # never be in the way; an autoscaler that wakes goes from 0 to 1 first; and more are nearer to enough.
    rule=(
        f"{_SHARDS} >= oldSelf.spec.experts.shards || {_SHARDS} <= 0 || self.spec.model != oldSelf.spec.model "
        "|| !has(self.status) || !has(self.status.model) "
        "|| !(has(self.spec.experts.slotsPerShard) || has(self.status.slotsPerShard)) "
        f"|| {_EXPERTS} < 1 || {_EXPERTS} > {MOST_EXPERTS} || {_SLOTS} < 1 "
        f"|| {_SHARDS} * {_USED} >= {_EXPERTS} * {_COPIES}"
    ),
    message=(
        "spec.experts.shards is %s: they have %s x %s = %s slots per layer, and %s experts x %s (copies.min) need %s: "
        "use at least %s shards, a larger slotsPerShard or fewer copies; 0 shards put it to sleep"
    ),
    values=(
        _SHARDS,
        _SHARDS,
        _USED,
        f"{_SHARDS} * {_USED}",
        _EXPERTS,
        _COPIES,
        f"{_EXPERTS} * {_COPIES}",
        f"({_EXPERTS} * {_COPIES} + {_USED} - 1) / {_USED}",
    ),
    field_path=".spec.experts.shards",
)


class FieldOwner(ApiModel):
    """Who wrote a field, as the API server notes it."""

    model_config = ConfigDict(extra="ignore")

    manager: str = ""
    operation: str = ""
    subresource: str = ""
    time: datetime | None = None


class ObjectMeta(ApiModel):
    """The part of an object's metadata that the operator reads."""

    model_config = ConfigDict(extra="ignore")

    name: str
    namespace: str
    uid: str
    generation: int = 1
    resource_version: str = ""
    deletion_timestamp: datetime | None = None
    finalizers: tuple[str, ...] = ()
    annotations: Annotated[Mapping[str, str], BeforeValidator(_ours)] = {}
    """Those of this operator."""
    managed_fields: tuple[FieldOwner, ...] = ()
    """Of ``spec.experts.shards`` alone, as ``kube.store`` keeps them."""


class Identity(ApiModel):
    """What can be read of any object, whatever its spec: who it is, and whether it is being deleted."""

    model_config = ConfigDict(extra="ignore")

    api_version: str
    kind: str
    metadata: ObjectMeta

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Read an object as the API server returns it.

        Raises:
            InvalidObjectError: it does not fit these types; the message names the fields.
        """
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
                for fault in error.errors()
            )
            raise InvalidObjectError(f"{faults}: correct the fields, or install the CRD of this release") from error

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def deleting(self) -> bool:
        """Whether deletion was asked for."""
        return self.metadata.deletion_timestamp is not None

    @property
    def has_cleanup_finalizer(self) -> bool:
        """Whether deletion waits for the operator."""
        return CLEANUP_FINALIZER in self.metadata.finalizers

    @property
    def others_finalizers(self) -> tuple[str, ...]:
        """For whom else deletion waits."""
        return tuple(name for name in self.metadata.finalizers if name != CLEANUP_FINALIZER)


class MoEDeployment(Identity):
    """One Mixture-of-Experts model served with its experts spread over shards that can be scaled, moved and lost."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=validations(NAME_RULE, SCALE_RULE))

    spec: MoEDeploymentSpec
    """What is asked for."""
    status: MoEDeploymentStatus = MoEDeploymentStatus()
    """What the operator saw."""

    @property
    def rebalance_paused(self) -> bool:
        """Whether somebody asked that nothing be proposed or moved of the operator's own accord."""
        return is_paused(self.metadata.annotations.get(ANNOTATION_PAUSE))

    @property
    def served_name(self) -> str:
        """Name of the model in the OpenAI API."""
        return self.spec.model.served_name or self.metadata.name

    @property
    def asks_of_nodes(self) -> bool:
        """Whether any of its processes asks something of its node."""
        return bool(asked(self.spec.experts.resources) or asked(self.spec.attention.resources))

    @property
    def model_path(self) -> str:
        """Where the data plane finds the checkpoint.

        Raises:
            InvalidObjectError: the runtime cannot follow ``spec.model.source``, or that names nothing.
        """
        source = self.spec.model.source
        refused = source.refused_on_ray_cluster() if self.spec.runtime.ray_cluster else None
        if refused is not None:
            raise InvalidObjectError(refused)
        return source.reference

    @property
    def model_args(self) -> ModelArgs:
        """The arguments by which every process shall load the model; raises as ``model_path``."""
        return ModelArgs(path=self.model_path, dtype=self.spec.model.dtype, weights=self.spec.experts.weights)

    @property
    def ray_cluster(self) -> RayCluster:
        """The Ray cluster it runs on."""
        if self.spec.runtime.ray_cluster is None:
            raise InvalidObjectError("spec.runtime names no runtime: write e.g. runtime: {rayCluster: {…}}")
        return self.spec.runtime.ray_cluster

    @property
    def kube_ray(self) -> KubeRay:
        """The Ray cluster of its own that KubeRay runs."""
        if self.spec.runtime.kube_ray is None:
            raise InvalidObjectError("spec.runtime.kubeRay is not there")
        return self.spec.runtime.kube_ray

    @property
    def serve_url(self) -> str:
        """Where clients reach Serve."""
        if self.spec.runtime.kube_ray is None:
            return self.ray_cluster.serve_url
        return f"http://{api_service_name(self.metadata.name)}.{self.metadata.namespace}.svc:{API_PORT}"

    @property
    def route_prefix(self) -> str:
        """Path below which the API answers."""
        return self.spec.serving.route_prefix or f"/{self.metadata.namespace}/{self.metadata.name}"

    def url_at(self, route_prefix: str) -> str:
        """Base URL of the OpenAI API below a route prefix."""
        return f"{self.serve_url.rstrip('/')}{route_prefix.rstrip('/')}/v1"
