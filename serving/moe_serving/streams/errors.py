"""What can go wrong between an api and the replica that answers it."""

from moe_serving.errors import MoEServingError


class ReplicaLostError(MoEServingError):
    """The replica that was answering is gone, stuck or leaving; another one can go on.

    Attributes:
        replica: who, by the name that Serve gave it; None where nobody was.
    """

    def __init__(self, message: str, replica: str | None = None) -> None:
        super().__init__(message)
        self.replica = replica
