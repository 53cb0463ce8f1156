"""What can go wrong with one request or one step; the engine itself lives on."""

from moe_serving.errors import MoEServingError


class RequestRefusedError(MoEServingError, ValueError):
    """A request this engine can never serve: raised by ``submit``, names the field, its value and the bound."""


class QueueFullError(MoEServingError):
    """More requests wait than the queue takes.

    Attributes:
        retry_after_s: when there may be room, by how fast the queue has moved so far.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class ExpertsUnavailableError(MoEServingError):
    """No live copy of an expert answered in time; raised by an ``ExpertsClient``, fails the requests of that step."""


class EngineStoppedError(MoEServingError):
    """The engine is stopping or has stopped; another replica must take the request."""
