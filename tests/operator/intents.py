"""What tests look at in an intent."""

from moe_contract.rendering import Desired
from moe_operator.reconcile.intent import Intent
from moe_placement.encoding import decode_placement


def shards(intent: Intent) -> list[int]:
    """Indices of the shard applications that shall run."""
    refs = intent.desired.directory.shards if intent.desired else ()
    return [ref.index for ref in refs if ref.application not in intent.without]


def slots(intent: Intent) -> tuple[int, ...]:
    """Slots per layer of each shard in the placement wanted."""
    return decode_placement(intent.target.placement).shard_slots if intent.target.placement else ()


def told(intent: Intent) -> tuple[list[int], tuple[int, ...], int]:
    return shards(intent), slots(intent), intent.target.revision


def desired(intent: Intent) -> Desired:
    assert intent.desired is not None
    return intent.desired
