"""What is told of a pass that failed. Pure.

An object must not stay without a status because a pass over it fails, whatever the reason. Of a fault of our own only
kind and place are told, and the log has the rest: an exception's words may quote anything, tokens and other tenants'
answers included.
"""

from __future__ import annotations

import traceback
from pathlib import PurePath

from moe_operator.api import Reason
from moe_operator.errors import LeadershipLostError, StaleBasisError
from moe_operator.finding import Finding
from moe_operator.kube.errors import ConflictError, KubeError, NameConflictError, SecretError
from moe_operator.offload.errors import OffloadError

UNSTEADY_SECONDS = 30.0
"""After which it is told that intents are overtaken again and again: by a Serve that starts anew all the time, or by
keys that change."""

_OURS = "moe_operator"
_MAX_QUOTED = 1000


def failure(error: Exception, seconds: float) -> Finding | None:
    """What the object's status says of it, ``seconds`` after the first such failure without a success in between; None
    where the pass is made again at once, or nothing can be told."""
    if isinstance(error, ConflictError | LeadershipLostError):
        return None
    if isinstance(error, StaleBasisError):
        return Finding(Reason.RAY_UNREACHABLE, f"{error}, again and again") if seconds >= UNSTEADY_SECONDS else None
    if isinstance(error, SecretError | NameConflictError):
        return Finding(error.reason, str(error))
    if isinstance(error, KubeError):
        return _refused(error)
    return Finding(
        Reason.INTERNAL_ERROR,
        f"the operator could not work this object: {_what(error)}; it is tried again, and what runs goes on. The log "
        "of the operator has the details",
    )


def _what(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return str(error) if isinstance(error, OffloadError) else f"{type(error).__name__} {_place(error)}"


def _refused(error: KubeError) -> Finding | None:
    """Of an API server that does not answer, or asks for patience, nothing can be told there."""
    if error.status in (401, 408, 429) or not 400 <= error.status < 500:
        return None
    return Finding(Reason.KUBERNETES_REFUSED, f"the API server refused what the operator needs: {error}"[:_MAX_QUOTED])


def _place(error: Exception) -> str:
    """The innermost line of this package that it came through."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if _OURS in PurePath(frame.filename).parts]
    if not ours:
        return "somewhere"
    inside = PurePath(ours[-1].filename).parts
    module = "/".join(inside[len(inside) - inside[::-1].index(_OURS) :])
    return f"in {module}, line {ours[-1].lineno}"
