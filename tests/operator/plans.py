"""What tests look at in a plan."""

from moe_contract.rendering import Desired
from moe_operator.reconcile.plan import Plan
from moe_placement.encoding import decode_placement


def shards(plan: Plan) -> list[int]:
    """Indices of the shard applications that shall run."""
    refs = plan.desired.directory.shards if plan.desired else ()
    return [ref.index for ref in refs if ref.application not in plan.without]


def slots(plan: Plan) -> tuple[int, ...]:
    """Slots per layer of each shard in the placement wanted."""
    return decode_placement(plan.target.placement).shard_slots if plan.target.placement else ()


def told(plan: Plan) -> tuple[list[int], tuple[int, ...], int]:
    return shards(plan), slots(plan), plan.target.revision


def desired(plan: Plan) -> Desired:
    assert plan.desired is not None
    return plan.desired
