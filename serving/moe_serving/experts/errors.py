"""What can go wrong inside a shard."""

from moe_serving.errors import MoEServingError


class StoreFullError(MoEServingError):
    """A shard was told to hold more experts than it has room for."""


class OtherIncarnationError(MoEServingError):
    """An order was meant for an earlier process of this shard; look at the shard again before giving orders."""


class ShardNotReadyError(MoEServingError):
    """The shard has not opened the checkpoint yet, or cannot; the message says why."""
