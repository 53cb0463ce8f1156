"""Making fields that were created by POST removable by server-side apply.

A POST records its fields as an ``Update`` of the manager. A later apply by the same manager owns a second entry, an
``Apply``, and a field dropped from the manifest then stays, held by the first. So the first is turned into an ``Apply``
before the first apply, as client-go's ``csaupgrade`` does. Pure; called by ``children``.
Who set a field tells also who made an object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_operator.kube.api import Json


def upgraded(managed_fields: Sequence[Mapping[str, Any]], manager: str) -> list[Json] | None:
    """``managed_fields`` with every ``Update`` entry of ``manager`` merged into its ``Apply`` entry.

    Returns:
        None if there is nothing to change. Entries of subresources are left as they are: apply does not touch them.
    """
    updates = [entry for entry in managed_fields if _is(entry, manager, "Update")]
    if not updates:
        return None
    applies = [entry for entry in managed_fields if _is(entry, manager, "Apply")]
    others = [dict(entry) for entry in managed_fields if entry not in updates and entry not in applies]
    fields: Json = {}
    for entry in [*applies, *updates]:
        fields = _union(fields, entry.get("fieldsV1", {}))
    return [*others, {**(applies or updates)[0], "operation": "Apply", "fieldsV1": fields}]


def was_set_by(managed_fields: Sequence[Mapping[str, Any]], manager: str, *path: str) -> bool:
    """Whether ``manager`` set the field at ``path``, as FieldsV1 writes it (``f:spec``, ``f:content``)."""
    for entry in managed_fields:
        if entry.get("manager") != manager or entry.get("subresource"):
            continue
        if _has(entry, path):
            return True
    return False


MOST_OWNERS = 4
"""Of a field that are kept: two that write it by turns are told apart by one."""


def owners(managed_fields: Sequence[Mapping[str, Any]], *path: str) -> list[Json]:
    """Who wrote the field at ``path``, without all else that they wrote; the last first."""
    found = [entry for entry in managed_fields if isinstance(entry, Mapping) and _has(entry, path)]
    kept = ("manager", "operation", "subresource", "time")
    found.sort(key=lambda entry: str(entry.get("time", "")), reverse=True)
    fields: Json = {}
    for step in reversed(path):
        fields = {step: fields}
    return [
        {**{name: str(entry[name]) for name in kept if name in entry}, "fieldsV1": fields}
        for entry in found[:MOST_OWNERS]
    ]


def _has(entry: Mapping[str, Any], path: Sequence[str]) -> bool:
    fields: Any = entry.get("fieldsV1", {})
    for step in path:
        fields = fields.get(step) if isinstance(fields, Mapping) else None
    return fields is not None


def _is(entry: Mapping[str, Any], manager: str, operation: str) -> bool:
    return (entry.get("manager"), entry.get("operation"), entry.get("subresource", "")) == (manager, operation, "")


def _union(left: Mapping[str, Any], right: Mapping[str, Any]) -> Json:
    """A FieldsV1 is a tree whose keys are path elements; the union of two sets is the union of the trees."""
    merged = dict(left)
    for key, child in right.items():
        merged[key] = _union(merged.get(key, {}), child)
    return merged
