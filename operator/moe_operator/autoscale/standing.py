"""Whether a policy acts at all, and why it does not. Pure."""

from __future__ import annotations

from datetime import datetime

from moe_contract.model import ModelFacts
from moe_operator.api import MoEDeployment, Reason
from moe_operator.autoscale.bounds import FIELD, BadScheduleError, check_schedules
from moe_operator.autoscale.ownership import foreign
from moe_operator.finding import Finding


def conflict(moe: MoEDeployment) -> Finding | None:
    """Who writes the number of shards in the policy's place, if anybody: condition ``AutoscalerConflict``."""
    shards = moe.spec.experts.shards
    who = foreign(moe.metadata.managed_fields, shards, moe.status.autoscaling)
    if who is None:
        return None
    return Finding(
        Reason.FOREIGN_SCALER,
        f"spec.experts.shards is {shards}, written by {who} after {FIELD} had it: two that scale undo each other's "
        "work, so the policy does nothing. Remove the other one (HorizontalPodAutoscaler, ScaledObject, shards in a "
        f"manifest that is applied again), then take {FIELD} out of the spec and put it back; or leave it out",
    )


def standstill(moe: MoEDeployment, facts: ModelFacts | None, now: datetime) -> Finding | None:
    """Why nothing is scaled by ``spec.experts.autoscaling``, if so: condition ``AutoscalingActive``."""
    policy = moe.spec.experts.autoscaling
    if policy is None:
        return None
    if moe.spec.suspend:
        return Finding(Reason.SUSPENDED, "spec.suspend is true: the operator writes nothing")
    other = conflict(moe)
    if other:
        return other
    if moe.spec.experts.shards == 0:
        return Finding(Reason.ASLEEP, "spec.experts.shards is 0: the policy goes on once somebody has woken it")
    try:
        check_schedules(policy, now)
    except BadScheduleError as error:
        return Finding(Reason.SCHEDULE_INVALID, str(error))
    if facts is not None and policy.min_shards > facts.experts:
        return Finding(
            Reason.TOO_MANY_SHARDS,
            f"{FIELD}.minShards is {policy.min_shards}, but the model has {facts.experts} experts per MoE layer: use "
            f"at most {facts.experts}",
        )
    return None
