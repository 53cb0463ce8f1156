"""Fields that no schema knows: taken and reported, unless one is a slip of a known name. One rule at every nesting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from moe_serving.api.errors import InvalidRequestError
from moe_serving.api.fields import UNSUPPORTED
from moe_serving.api.schemas import Schema

HEADER = "x-moe-ignored-fields"
"""Of the answer to a request some of whose fields were ignored: their names, where they fit it."""
MAX_UNKNOWN = 256
"""Different unknown names in one request: each is compared with all known ones."""

_LONGEST_NAME = 64
"""No known name is as long."""
_MAX_NAMES = 10
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")


def ignored_fields(body: Schema) -> list[str]:
    """Names of the fields of a request, and of what is nested in it, that no schema knows. Those inside of others have
    the outer's name before them, and each is there once: ``messages.mood``.

    Raises:
        InvalidRequestError: one is a single edit away from a known field's name, which it suggests; or there are too
            many.
    """
    found: dict[str, None] = {}
    for where, schema, name in _walk(body, ""):
        path = where + name
        if path in found:
            continue
        meant = nearest(schema, name) if len(name) <= _LONGEST_NAME else None
        if meant is not None:
            raise InvalidRequestError(
                f"{path}: this server knows no such parameter; did you mean {where}{meant}?", path, UNSUPPORTED
            )
        found[path] = None
        if len(found) > MAX_UNKNOWN:
            raise InvalidRequestError(
                f"the body has more than {MAX_UNKNOWN} parameters that this server does not know; leave them out",
                code=UNSUPPORTED,
            )
    return list(found)


def header_value(ignored: list[str]) -> str | None:
    """``ignored`` for the header; None where there is nothing that can stand in one."""
    names = [name for name in ignored if _NAME.fullmatch(name)]
    return ", ".join(names[:_MAX_NAMES]) or None


@lru_cache(maxsize=4096)
def nearest(schema: type[Schema], name: str) -> str | None:
    """The known field that ``name`` is one edit away from: a letter more, less, another, or two swapped."""
    return next((known for known in schema.model_fields if _one_edit(name, known)), None)


def _walk(part: Schema, where: str) -> Iterator[tuple[str, type[Schema], str]]:
    """Unknown names with the schema in which they stand and the path to it, which ends with a dot unless empty."""
    for name in part.model_extra or ():
        yield where, type(part), name
    for name in part.model_fields_set & type(part).model_fields.keys():
        value = getattr(part, name)
        for inner in value if isinstance(value, list) else (value,):
            if isinstance(inner, Schema):
                yield from _walk(inner, f"{where}{name}.")


def _one_edit(name: str, known: str) -> bool:
    """Whether the distance of Damerau and Levenshtein is 1."""
    if abs(len(name) - len(known)) > 1 or name == known:
        return False
    same = next((n for n, (a, b) in enumerate(zip(name, known, strict=False)) if a != b), min(len(name), len(known)))
    mine, theirs = name[same:], known[same:]
    if len(mine) == len(theirs):
        return mine[1:] == theirs[1:] or (mine[:2] == theirs[1::-1] and mine[2:] == theirs[2:])
    return mine[1:] == theirs or mine == theirs[1:]
