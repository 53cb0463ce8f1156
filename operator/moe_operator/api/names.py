"""Every name that others see: group, kind, labels, finalizer, names of children. One place, one spelling. The words of
conditions are in ``reasons``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

GROUP = "moe-operator.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

KIND = "MoEDeployment"
PLURAL = "moedeployments"
SINGULAR = "moedeployment"
SHORT_NAME = "moe"
CATEGORIES = ("all", "moe-operator")

PLACEMENT_KIND = "ExpertPlacement"
PLACEMENT_PLURAL = "expertplacements"
PLACEMENT_SINGULAR = "expertplacement"
PLACEMENT_SHORT_NAME = "xp"
PLACEMENT_CATEGORIES = ("moe-operator",)
"""Not of ``all``: each MoEDeployment has several."""

FIELD_MANAGER = "moe-operator"
"""Owner of the fields that the operator applies."""

SLEEP_FIELD_MANAGER = "moe-operator-sleep"
ACTIVATOR_FIELD_MANAGER = "moe-activator"
"""Owners of the number of shards, once the operator has put a deployment to sleep, and the activator has woken it."""

AUTOSCALER_FIELD_MANAGER = "moe-operator-autoscaler"
"""Owner of the number of shards that ``spec.experts.autoscaling`` chose."""

REPORTING_CONTROLLER = GROUP
"""Reporter of the operator's Events."""

CLEANUP_FINALIZER = f"{GROUP}/ray-cleanup"
"""Set while Serve applications of the object run on a Ray cluster that outlives it."""

LABEL_DEPLOYMENT = f"{GROUP}/deployment"
"""On every child: name of its MoEDeployment."""

LABEL_COMPONENT = f"{GROUP}/component"
"""On every child: what it is for."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"

LABEL_USE = f"{GROUP}/use"
"""On a Secret of the user: what its owner allows the operator to use it for, one of ``SecretUse``."""

ANNOTATION_ADDRESSES = f"{GROUP}/allowed-addresses"
"""On a Secret with a token: where its owner allows the token to be sent, ``host:port`` or URLs, separated by commas."""

ANNOTATION_PAUSE = f"{GROUP}/pause-rebalance"
"""On a MoEDeployment: the operator proposes and moves nothing of its own accord, until it is gone or ``false``."""

COMPONENT_SHARD = "expert-shard"
COMPONENT_INTERNAL_KEY = "internal-key"
COMPONENT_PLACEMENT = "placement"
COMPONENT_RAY_SERVICE = "ray-service"
COMPONENT_RAY_TOKEN = "ray-token"
COMPONENT_HEAD = "ray-head"
COMPONENT_ATTENTION = "attention"
COMPONENT_API = "api"
COMPONENT_NETWORK = "network"
COMPONENT_ACTIVATION = "activation"

LABEL_SLICE_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
LABEL_SERVICE_NAME = "kubernetes.io/service-name"
"""Kubernetes' own, on EndpointSlices: who writes one, and whose endpoints it has."""

ANNOTATION_APPLIED = f"{GROUP}/applied"
"""On every child: digest of what was applied last. Equal, and nothing drifted: no write is needed."""

ANNOTATION_UNTOLD_SINCE = f"{GROUP}/untold-since"
"""On a PodDisruptionBudget: since when the directory of which Ray cluster has not told which shards hold what, and of
the pods for shards how many ran then, and how many had to stay."""

ANNOTATION_ACTIVATION = f"{GROUP}/activation"
"""On the EndpointSlice that leads requests to the activator: what that must know of the deployment."""

ANNOTATION_SEAL = f"{GROUP}/seal"
"""On an ExpertPlacement of the operator's: that it wrote it, see ``placements.seal``."""

ANNOTATION_DRAIN = f"{GROUP}/drain-shards"
"""On a MoEDeployment: indices of the shards that shall hold nothing any more, separated by commas, such as ``1,3``."""


class SecretUse(StrEnum):
    """Values of ``LABEL_USE``."""

    RAY_TOKEN = "ray-token"
    API_KEYS = "api-keys"
    MODEL_SOURCE = "model-source"


MODEL_TOKEN = "token"
"""Where a Secret for ``model-source`` has the token of a hub or a web server."""
MODEL_ACCESS_KEYS = ("accessKeyId", "secretAccessKey")
"""Where it has those of an object store."""


def child_labels(deployment: str, component: str) -> dict[str, str]:
    """Labels of a child of the MoEDeployment named ``deployment``."""
    return {LABEL_DEPLOYMENT: deployment, LABEL_COMPONENT: component, LABEL_MANAGED_BY: FIELD_MANAGER}


API_PORT = 8000
"""Of the Service of an API that KubeRay runs, and of Serve in the pods behind it."""


def api_service_name(deployment: str) -> str:
    """Name of the Service of the API of a MoEDeployment that KubeRay runs."""
    return f"{deployment}-moe-api"


def activation_name(deployment: str) -> str:
    """Name of the EndpointSlice that leads requests to the activator while a MoEDeployment sleeps."""
    return f"{deployment}-moe-activation"


_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def reserved_for(route: str, namespace: str) -> str | None:
    """The other namespace that a route of ``namespace`` would be of: what is below its name are the default prefixes of
    its deployments. Which namespaces there are, or will be, is not asked: whatever may be the name of one counts."""
    first, _, rest = route.removeprefix("/").partition("/")
    return first if rest and first != namespace and _NAMESPACE.fullmatch(first) else None


def placement_name(deployment: str, revision: int) -> str:
    """Name of the ExpertPlacement of a revision of a MoEDeployment."""
    return f"{deployment}-r{revision}"


def revision_of(name: str) -> int:
    """The revision in the name of an ExpertPlacement as the API server takes it; 0, which none has, of another."""
    number = name.rpartition("-r")[2]
    return int(number) if number.isascii() and number.isdecimal() and len(number) <= 10 else 0


def shard_selector(deployment: str, more: Mapping[str, str] = MappingProxyType({})) -> str:
    """``status.selector``: an autoscaler on the scale subresource demands one.

    It matches the pods of expert shards, those with ``more`` labels among them; on an existing Ray cluster there are
    none, so that only External and Object metrics can drive the scale there.
    """
    labels = {LABEL_DEPLOYMENT: deployment, LABEL_COMPONENT: COMPONENT_SHARD, **more}
    return ",".join(f"{key}={value}" for key, value in labels.items())
