"""Errors of the Ray side. A RayError says which reason a condition gives for it, in the same words at every attempt.

RayError
├── RayAddressRefusedError   the operator may not connect there
├── RayUnreachableError      nothing answers, or Ray itself is in trouble
│   └── CrowdedError         there was no room to hear it out
├── RayAnswerRefusedError    it answers more than can be taken
├── RayAuthError             the token is missing or wrong
├── NotARayDashboardError    something answers that is no Ray dashboard
├── ServeMissingError        a Ray without Serve
├── DeployRefusedError       Serve refused the configuration
└── DirectoryError           the directory of a deployment cannot be asked
    ├── NobodyThereError     nothing answers where it is asked
    ├── RouteMissingError    Serve has no such route (yet)
    ├── DirectoryAwayError   what answers in its place cannot reach it
    └── KeyRefusedError      it did not take the operator's key
"""

from __future__ import annotations

from typing import ClassVar

from moe_operator.api import Reason
from moe_operator.errors import OperatorError


class RayError(OperatorError):
    """Ray could not be read or written.

    Attributes:
        reason: of the condition that tells of it.
    """

    reason: ClassVar[Reason] = Reason.RAY_UNREACHABLE


class RayAddressRefusedError(RayError):
    """The operator's own settings forbid this address."""

    reason = Reason.RAY_ADDRESS_REFUSED


class RayUnreachableError(RayError):
    """No answer within the time limit, or one that says that Ray is in trouble."""


class CrowdedError(RayUnreachableError):
    """There was no room for what goes there or comes from there: others have it."""


class RayAnswerRefusedError(RayError):
    """An answer that is too large, or takes too much to read; the message names the bound."""

    reason = Reason.RAY_ANSWER_REFUSED


class RayAuthError(RayError):
    """401 or 403: the token is missing or wrong."""

    reason = Reason.RAY_AUTH_FAILED


class NotARayDashboardError(RayError):
    """An answer that no Ray dashboard gives."""

    reason = Reason.NOT_A_RAY_DASHBOARD


class ServeMissingError(RayError):
    """Ray runs there, but without Serve."""

    reason = Reason.PACKAGE_MISSING


class DeployRefusedError(RayError):
    """Serve refused the configuration; the message has its words."""

    reason = Reason.DEPLOY_FAILED


class DirectoryError(RayError):
    """The directory of a deployment did not give a report."""

    reason = Reason.DIRECTORY_UNREACHABLE


class NobodyThereError(DirectoryError):
    """No answer of any kind: whoever answers with an error lives."""


class RouteMissingError(DirectoryError):
    """Serve answers, but has no such route: the core application is not up (yet)."""


class DirectoryAwayError(DirectoryError):
    """HTTP 5xx: Serve or an api is there and the directory is not, as while it is restarted."""


class KeyRefusedError(DirectoryError):
    """401 or 403: the operator's key to the directory is another one there."""

    @classmethod
    def check(cls, status: int, url: str) -> None:
        """
        Raises:
            KeyRefusedError: ``status`` is what ``url`` answers to another key.
        """
        if status in (401, 403):
            raise cls(f"{url} does not take the operator's key (HTTP {status})")
