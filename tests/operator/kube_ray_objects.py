"""MoEDeployments that KubeRay shall run, and KubeRay's own kinds from the Go module of its release."""

from typing import Any

from data_plane import DataPlane, deployment
from foreign_kinds import install_kinds

from moe_dev.binaries import KUBERAY_MANIFESTS, binary
from moe_dev.kube import Kubectl
from moe_operator.api import MoEDeployment
from moe_operator.api.names import COMPONENT_RAY_TOKEN
from moe_operator.kube.api import Json
from moe_operator.kube.secrets import build_own
from moe_operator.runtimes.kube_ray.evictions import staying
from moe_operator.runtimes.kube_ray.manifests.budgets import build_budgets
from moe_operator.runtimes.kube_ray.manifests.names import TOKEN_KEY, token_secret_name
from moe_operator.runtimes.kube_ray.manifests.network import Whereabouts, build_policies
from moe_operator.runtimes.kube_ray.manifests.ray_service import build_ray_service
from moe_operator.runtimes.kube_ray.manifests.serve_config import serve_config
from moe_operator.runtimes.kube_ray.manifests.service import build_service

TOKEN = "t" * 43
IMAGE = "registry.example.org/moe-serving:0.1.0"
OTHER_IMAGE = {"kubeRay": {"image": "registry.example.org/moe-serving:0.2.0"}}
"""A runtime with another one."""


def kube_ray_deployment(kube_ray: Json | None = None, **experts: Any) -> MoEDeployment:
    """``kube_ray``: fields of spec.runtime.kubeRay beside the image; others as of ``deployment``."""
    more = experts.pop("spec", {})
    runtime = {"kubeRay": {"image": IMAGE, **(kube_ray or {})}}
    return deployment(spec={"runtime": runtime, **more}, **experts)


def settled_config(moe: MoEDeployment) -> str:
    """What Serve is told of a deployment that is settled."""
    plane = DataPlane(moe)
    plane.settle()
    desired = plane.decide().desired
    assert desired is not None
    return serve_config(desired)


def rendered(**kube_ray: Any) -> Json:
    """The spec of the RayService of two shards, with these fields of spec.runtime.kubeRay."""
    return build_ray_service(kube_ray_deployment(kube_ray, shards=2), "", 2, TOKEN)["spec"]


def pods(spec: Json) -> list[Json]:
    """Specs of the pods in that: of the head, of attention and of shards."""
    cluster = spec["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def all_manifests(moe: MoEDeployment) -> list[Json]:
    """Of a deployment that is settled."""
    shards = moe.spec.experts.shards
    return [
        build_own(moe, token_secret_name(moe.metadata.name), COMPONENT_RAY_TOKEN, TOKEN_KEY, TOKEN),
        build_ray_service(moe, settled_config(moe), shards, TOKEN),
        build_service(moe, f"{moe.metadata.name}-abcde"),
        *build_budgets(moe, staying(moe, shards)),
        *build_policies(moe, Whereabouts(("kuberay",), ("moe-system",))),
    ]


def install_kube_ray_kinds(kube: Kubectl, *plurals: str) -> None:
    """By default RayService and RayCluster."""
    names = (f"ray.io_{plural}.yaml" for plural in plurals or ("rayservices", "rayclusters"))
    install_kinds(kube, binary(KUBERAY_MANIFESTS) / "crd" / "bases", *names)


def remove_kube_ray_kinds(kube: Kubectl) -> None:
    kube.run("delete", "crd", "rayservices.ray.io", "rayclusters.ray.io", "--ignore-not-found")
