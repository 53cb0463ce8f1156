"""What tests look at in a plan."""

from typing import Any

from moe_operator.reconcile.plan import Plan
from moe_placement.encoding import decode_placement


def shards(plan: Plan) -> list[int]:
    """Indices of the shard applications that shall run."""
    return [int(a["name"].rpartition("-")[2]) for a in plan.applications or () if ".experts-" in a["name"]]


def slots(plan: Plan) -> tuple[int, ...]:
    """Slots per layer of each shard in the placement wanted."""
    return decode_placement(plan.target.placement).shard_slots if plan.target.placement else ()


def told(plan: Plan) -> tuple[list[int], tuple[int, ...], int]:
    return shards(plan), slots(plan), plan.target.revision


def core(plan: Plan) -> Any:
    assert plan.applications is not None
    return plan.applications[0]


def scale(plan: Plan, deployment: str) -> tuple[int, int, float]:
    """Fewest and most replicas of a deployment of the core, and requests in flight per replica."""
    given = next(d["autoscaling_config"] for d in core(plan)["deployments"] if d["name"] == deployment)
    return given["min_replicas"], given["max_replicas"], given["target_ongoing_requests"]


def user_config(plan: Plan, deployment: str) -> Any:
    return next(d["user_config"] for d in core(plan)["deployments"] if d["name"] == deployment)
