"""What the directory refuses, and what it meets while it looks after shards."""

from moe_serving.errors import MoEServingError


class ConfigRefusedError(MoEServingError):
    """A ``user_config`` that cannot be carried out; the target in force stays. The message becomes a status."""


class ShardGoneError(MoEServingError):
    """A shard's process is known to be dead, not only silent; raised by a ``ShardClient``."""
