"""How the operator knows an ExpertPlacement as its own if it died before it could tell a status. Pure.

Who sets fields chooses the name that they are set under, so a field manager proves nothing. The operator's key to the
directory of the deployment does: it is random, and in a Secret of the operator's own.
"""

from __future__ import annotations

import hashlib
import hmac

from moe_operator.api import PlacementContent


def seal(key: str, namespace: str, content: PlacementContent) -> str:
    """The seal of the object with that content. Whose key it is says which deployment it is of, and the name follows
    from both."""
    about = f"ExpertPlacement\n{namespace}\n{content.model_dump_json(by_alias=True)}"
    return hmac.new(key.encode(), about.encode(), hashlib.sha256).hexdigest()


def is_sealed(told: str, key: str, namespace: str, content: PlacementContent) -> bool:
    """Whether ``told`` is the placement's seal."""
    return hmac.compare_digest(told.encode(), seal(key, namespace, content).encode())
