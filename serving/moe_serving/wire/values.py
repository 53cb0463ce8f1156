"""Values as they travel by calls, of whichever release they are.

A dataclass with slots is pickled as the list of its fields, in their order; any other by their names. So that another
release can read it, **fields are only added, at the end and with a default**, which stands in where the other side
tells less; what it tells beyond is left out. Where that cannot be, ``frames.VERSION`` is counted up.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from moe_serving.wire.frames import Buffer

_OURS = "moe_serving."


def unpacked(body: Buffer) -> Any:
    """
    Raises:
        Exception: whatever unpickling raises.
    """
    return _Unpickler(io.BytesIO(body)).load()


class _Unpickler(pickle.Unpickler):
    """It is the class that reads what it is told, so each of ours is prepared when it is first met."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if module.startswith(_OURS) and is_dataclass(found) and getattr(found, "__setstate__", None) is not _take:
            found.__setstate__ = _take  # type: ignore[union-attr]  # is_dataclass takes objects too
        return found


def _take(self: Any, state: Any) -> None:
    known = fields(self)
    told: Mapping[str, Any]
    match state:
        case list():
            told = dict(zip((field.name for field in known), state, strict=False))
        case (_, dict() as told) | (dict() as told):
            pass
        case _:
            raise pickle.UnpicklingError(f"{type(self).__name__} is told as a {type(state).__name__}")
    for field in known:
        object.__setattr__(self, field.name, told[field.name] if field.name in told else _default(self, field))


def _default(owner: Any, field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    raise pickle.UnpicklingError(f"{type(owner).__name__}.{field.name} is not told")
