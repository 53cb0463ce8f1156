"""What can go wrong with one request or one step; the engine itself lives on."""

from moe_serving.errors import MoEServingError


class RequestRefusedError(MoEServingError, ValueError):
    """A request this engine can never serve: raised by ``submit``, names the field, its value and the bound."""


class ExpertsUnavailableError(MoEServingError):
    """No live copy of an expert answered in time; raised by an ``ExpertsClient``, fails the requests of that step."""


class EngineStoppedError(MoEServingError):
    """The engine is stopping or has stopped; another replica must take the request."""
