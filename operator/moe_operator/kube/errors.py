"""Errors of the Kubernetes side. Where a condition tells of one, the error says by which reason.

KubeError                 the API server refused a call or could not be reached
├── NotFoundError         404
├── AlreadyExistsError    409 on creation
├── ConflictError         409 on a write: somebody else wrote first
├── UnauthorizedError     401: the credentials are refused
├── CredentialsError      there are no credentials, or they cannot be renewed
├── ForbiddenError        403: a right is missing
└── KubeUnreachableError  no answer within the time limit
NameConflictError         an object of ours has a name that somebody else's object has
SecretError               a Secret cannot be used
├── SecretMissingError    it, or a key in it, does not exist
│   └── SecretAbsentError
├── SecretNotAllowedError its owner does not allow this use of it
│   ├── SecretNotLabelledError
│   └── SecretNotBoundError
└── SecretInvalidError
"""

from __future__ import annotations

from typing import ClassVar

from moe_operator.api.reasons import Reason
from moe_operator.errors import OperatorError


class KubeError(OperatorError):
    """The API server refused a call.

    Attributes:
        status: HTTP status; 0 when no answer came.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(KubeError):
    """There is no such object (any more), or no such kind."""


class AlreadyExistsError(KubeError):
    """An object of that name exists."""


class ConflictError(KubeError):
    """The object changed since it was read, or is another one (``uid``) of the same name: read again, then decide."""


class UnauthorizedError(KubeError):
    """The API server does not know, or no longer, who asks, also after the credentials were loaded anew."""


class CredentialsError(KubeError):
    """There is no access to Kubernetes, or it cannot be read."""


class ForbiddenError(KubeError):
    """The operator's ServiceAccount lacks a right; the message names it as the API server does."""


class KubeUnreachableError(KubeError):
    """No answer from the API server within the time limit."""


class NameConflictError(OperatorError):
    """An object with the name of one of ours belongs to somebody else; it is left as it is."""

    reason: ClassVar[Reason] = Reason.NAME_CONFLICT


class SecretError(OperatorError):
    """A Secret that a MoEDeployment refers to cannot be used.

    Attributes:
        reason: of the condition that tells of it.
    """

    reason: ClassVar[Reason] = Reason.SECRET_INVALID


class SecretMissingError(SecretError):
    """The Secret, or the key in it, does not exist."""

    reason = Reason.SECRET_MISSING


class SecretAbsentError(SecretMissingError):
    """There is no such Secret."""


class SecretNotAllowedError(SecretError):
    """The owner of the Secret does not allow this use of it (any more)."""


class SecretNotBoundError(SecretNotAllowedError):
    """The Secret does not name the address that its token would be sent to."""

    reason = Reason.SECRET_NOT_BOUND


class SecretNotLabelledError(SecretNotAllowedError):
    """The Secret lacks the label by which its owner allows this use."""

    reason = Reason.SECRET_NOT_LABELLED


class SecretInvalidError(SecretError):
    """What is in the Secret cannot be what it should be."""
