"""PodDisruptionBudgets. Pure.

A RayCluster has no scale subresource, so that a percentage, or ``maxUnavailable``, would block every eviction: what
must stay is a number, written anew when others are wanted. The head has no budget: there is one head, and a budget of
one pod would let no node be drained.
"""

from __future__ import annotations

from collections.abc import Iterator

from moe_operator.api import MoEDeployment
from moe_operator.api.names import COMPONENT_ATTENTION, COMPONENT_SHARD, LABEL_COMPONENT, LABEL_DEPLOYMENT
from moe_operator.kube.api import Json
from moe_operator.kube.children import child_metadata
from moe_operator.kube.resources import POD_DISRUPTION_BUDGETS
from moe_operator.runtimes.kube_ray.manifests.names import LABEL_CLUSTER


def build_budgets(
    moe: MoEDeployment,
    shards: int,
    drained: int = 0,
    cluster: str | None = None,
    whole: bool = True,
    serving: int | None = None,
) -> Iterator[Json]:
    """``shards``: that run; ``drained``: of these, that hold nothing; ``cluster``: the Ray cluster that answers, whose
    pods alone count: those of one that is coming up beside it answer nobody. ``whole``: whether every copy is in place:
    before, any pod may be the last that holds some expert, and none may go. ``serving``: pods of attention whose
    replica is ready; None where that is not known. While they are fewer than should be, the next one may be the last.

    Of shards as many may go as copies are beyond the first, or as hold nothing. Which one is evicted nobody can say, so
    the two are not added. A spare pod does not count: it is not ready before a shard runs on it, since Serve has no
    proxy there, and a number that asks for it would let no shard's pod go.
    """
    attention = moe.spec.attention.min_replicas
    is_short = attention > 1 and serving is not None and serving < attention
    yield _budget(moe, "attention", COMPONENT_ATTENTION, attention if is_short else max(attention - 1, 0), cluster)
    may_go = max(moe.spec.experts.copies.min - 1, drained) if whole else 0
    yield _budget(moe, "experts", COMPONENT_SHARD, max(shards - may_go, 0), cluster)


def _budget(moe: MoEDeployment, role: str, component: str, at_least: int, cluster: str | None) -> Json:
    name = moe.metadata.name
    pods = {LABEL_DEPLOYMENT: name, LABEL_COMPONENT: component, **({LABEL_CLUSTER: cluster} if cluster else {})}
    return {
        "apiVersion": POD_DISRUPTION_BUDGETS.api_version,
        "kind": POD_DISRUPTION_BUDGETS.kind,
        "metadata": child_metadata(moe, f"{name}-moe-{role}", component),
        "spec": {
            "minAvailable": at_least,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": pods},
        },
    }
