"""JSON merge patch (RFC 7386), as fakes of the API server apply it."""

from collections.abc import Mapping
from typing import Any


def merged(live: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """An object as it is after a patch; neither is changed."""
    found = dict(live)
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, Mapping):
            found[name] = merged(found.get(name) or {}, value)
        else:
            found[name] = value
    return found
