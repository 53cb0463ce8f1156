"""PodDisruptionBudgets. Pure.

A RayCluster has no scale subresource, so that a percentage, or ``maxUnavailable``, would block every eviction: what
must stay is a number, written anew when others are wanted. The head has no budget: there is one head, and a budget of
one pod would let no node be drained.
"""

from __future__ import annotations

from collections.abc import Iterator

from moe_operator.api import MoEDeployment
from moe_operator.api.names import (
    ANNOTATION_UNTOLD_SINCE,
    COMPONENT_ATTENTION,
    COMPONENT_SHARD,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
)
from moe_operator.kube.api import Json
from moe_operator.kube.children import child_metadata
from moe_operator.kube.resources import POD_DISRUPTION_BUDGETS
from moe_operator.runtimes.kube_ray.evictions import Staying
from moe_operator.runtimes.kube_ray.manifests.names import LABEL_CLUSTER


def experts_budget_name(deployment: str) -> str:
    """Name of the budget of the pods for shards."""
    return f"{deployment}-moe-experts"


def build_budgets(
    moe: MoEDeployment, staying: Staying, cluster: str | None = None, untold_since: str | None = None
) -> Iterator[Json]:
    """``cluster``: the Ray cluster that answers, whose pods alone count: those of one that is coming up beside it
    answer nobody. ``untold_since``: what is noted of a directory that does not tell."""
    names = {
        COMPONENT_ATTENTION: f"{moe.metadata.name}-moe-attention",
        COMPONENT_SHARD: experts_budget_name(moe.metadata.name),
    }
    numbers = {COMPONENT_ATTENTION: staying.attention, COMPONENT_SHARD: staying.experts}
    for component, at_least in numbers.items():
        metadata = child_metadata(moe, names[component], component)
        if untold_since:
            metadata["annotations"] = {ANNOTATION_UNTOLD_SINCE: untold_since}
        pods = {LABEL_DEPLOYMENT: moe.metadata.name, LABEL_COMPONENT: component}
        yield {
            "apiVersion": POD_DISRUPTION_BUDGETS.api_version,
            "kind": POD_DISRUPTION_BUDGETS.kind,
            "metadata": metadata,
            "spec": {
                "minAvailable": at_least,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": {**pods, **({LABEL_CLUSTER: cluster} if cluster else {})}},
            },
        }
