"""What ``spec.experts.autoscaling`` does, as conditions. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from moe_operator.api import Condition, ConditionType, MoEDeployment, Reason
from moe_operator.autoscale.bounds import FIELD, Bounds, bounds
from moe_operator.autoscale.standing import conflict, standstill
from moe_operator.autoscale.usage import tells
from moe_operator.finding import Finding
from moe_operator.reconcile.history import History
from moe_operator.reconcile.world import World

_NOBODY_ELSE = Finding(Reason.AS_EXPECTED, "nobody else writes spec.experts.shards")


def scaling_conditions(world: World, history: History) -> Iterator[Condition]:
    """The conditions, where ``spec.experts.autoscaling`` is set."""
    moe = world.moe
    policy = moe.spec.experts.autoscaling
    if policy is None:
        return
    stop = standstill(moe, world.facts, world.now) or _unmeasured(world)
    if stop:
        yield history.condition(ConditionType.AUTOSCALING_ACTIVE, "False", stop)
    else:
        now = bounds(policy, world.now, world.facts.experts if world.facts else None)
        why = Finding(Reason.AS_EXPECTED, _within(moe, now))
        yield history.condition(ConditionType.AUTOSCALING_ACTIVE, "True", why)
    other = conflict(moe)
    yield history.condition(ConditionType.AUTOSCALER_CONFLICT, "True" if other else "False", other or _NOBODY_ELSE)


def _unmeasured(world: World) -> Finding | None:
    """Why it is not known how busy shards are, if so."""
    shards = [shard for shard in world.report.shards if shard.wanted] if world.report else []
    if not shards or not all(shard.phase == "Ready" and shard.held for shard in shards):
        why = "not all shards answer and hold experts yet, so it is not known how busy they are"
    elif not tells(shards):
        why = "shards do not tell how busy they are: they are of an older release, or have just started"
    else:
        return None
    return Finding(Reason.FIGURES_MISSING, f"{why}; bounds of {FIELD} hold all the same")


def _within(moe: MoEDeployment, now: Bounds) -> str:
    policy = moe.spec.experts.autoscaling
    asked = policy.max_shards if policy else now.most
    by = f", as {now.field} says" if now.schedule is not None else ""
    most = f"; the model has {now.most} experts per MoE layer" if now.schedule is None and now.most < asked else ""
    return f"between {now.least} and {now.most} shards run{by}{most}"
