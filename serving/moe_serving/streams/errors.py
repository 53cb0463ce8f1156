"""What can go wrong between an api and the replica that answers it."""

from moe_serving.errors import MoEServingError


class ReplicaLostError(MoEServingError):
    """The replica that was answering is gone or leaving; another one can go on."""
