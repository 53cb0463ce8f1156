"""What is wrong with the content of an ExpertPlacement."""

from __future__ import annotations

from moe_operator.api import PlacementReason
from moe_operator.errors import OperatorError


class InvalidContentError(OperatorError):
    """It is no placement of the deployment's experts; ``reason`` is told in condition ``Valid``."""

    def __init__(self, reason: PlacementReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotExpressibleError(OperatorError):
    """A placement that no content can express."""
