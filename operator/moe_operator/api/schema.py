"""Pydantic types as structural OpenAPI v3 schemas, the only form a CRD accepts.

Differences to JSON schema: no ``$ref``, no null, no titles, no ``additionalProperties: false``; an optional field is
one that is not required; defaults of nested objects are spelled out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from moe_operator.api.rules import REQUIRED_CURE, VALIDATIONS, field_required

_DROPPED = frozenset({"title", "$defs"})
_SIBLINGS_OF_REF = frozenset({"description", "default", REQUIRED_CURE})


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of ``model`` with its field names as in a manifest."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(schema, schema.get("$defs", {}))


def _structural(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    schema = _without_null(schema)
    if "$ref" in schema:
        target = _structural(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
        target |= {key: value for key, value in schema.items() if key in _SIBLINGS_OF_REF}
        if VALIDATIONS in schema:
            target[VALIDATIONS] = [*target.get(VALIDATIONS, []), *schema[VALIDATIONS]]
        return target
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _DROPPED or (key == "additionalProperties" and value is False):
            continue
        if key == "properties":
            result[key] = {name: _structural(child, definitions) for name, child in value.items()}
        elif key == "items":
            result[key] = _structural(value, definitions)
        else:
            result[key] = value
    if result.get("type") == "integer":
        result["format"] = "int64"
    _require_by_rule(result)
    if VALIDATIONS in result:
        result[VALIDATIONS] = result.pop(VALIDATIONS)  # last, where a reader of the YAML expects it
    return result


def _require_by_rule(schema: dict[str, Any]) -> None:
    """Turn each required field that is marked with a cure into a rule that says the cure."""
    for name, child in schema.get("properties", {}).items():
        cure = child.pop(REQUIRED_CURE, None)
        if cure is not None:
            schema["required"] = [other for other in schema["required"] if other != name]
            schema.setdefault(VALIDATIONS, []).append(field_required(name, cure).to_schema())
    if not schema.get("required", True):
        del schema["required"]


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """``X | None`` with default None is an optional X; an empty default of an object or list says nothing either."""
    result = dict(schema)
    if "default" in result:
        result["default"] = _without_nulls(result["default"])
        if result["default"] in (None, {}, []):
            del result["default"]
    if "anyOf" not in result:
        return result
    kinds = [kind for kind in result.pop("anyOf") if kind.get("type") != "null"]
    if len(kinds) != 1:
        raise TypeError(f"a structural schema has one type per field, found {kinds}")
    return {**kinds[0], **result}


def _without_nulls(default: Any) -> Any:
    """A default as a manifest spells it: fields that are not set are left out."""
    if not isinstance(default, Mapping):
        return default
    return {key: _without_nulls(value) for key, value in default.items() if value is not None}
