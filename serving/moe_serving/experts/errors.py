"""What can go wrong inside a shard."""

from moe_serving.errors import MoEServingError


class PoolFullError(MoEServingError):
    """A shard was told to hold more experts than it has room for."""


class DamagedExpertError(MoEServingError):
    """The bytes of an expert are not those that its digest was made of."""


class NotHeldError(MoEServingError):
    """A peer does not hold the expert that it was asked for, or not any more."""


class PeerRestsError(MoEServingError):
    """A peer failed a moment ago; it is not asked again yet."""


class TransferAbandonedError(MoEServingError):
    """An expert is wanted no more that was on its way."""


class OtherIncarnationError(MoEServingError):
    """An order was meant for an earlier process of this shard; look at the shard again before giving orders."""


class ShardNotReadyError(MoEServingError):
    """The shard has not opened the checkpoint yet, or cannot; the message says why."""
