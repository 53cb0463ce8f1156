"""The step from pydantic to a structural schema."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import Field

from moe_operator.api.base import ApiModel
from moe_operator.api.crd import moedeployment_crd
from moe_operator.api.rules import VALIDATIONS, Rule, required_with_cure, validations
from moe_operator.api.schema import structural_schema


class Inner(ApiModel):
    """What is inside."""

    size: int = Field(default=3, ge=1)
    """How large."""
    note: str | None = None
    """What to say."""


class Outer(ApiModel):
    """What is around."""

    inner: Inner = Inner()
    """Its part."""
    needed: str = Field(json_schema_extra=required_with_cure("write needed: x"))
    """Must be."""


def test_a_structural_schema_has_no_references_no_nulls_and_spelled_out_defaults() -> None:
    inner = {
        "description": "Its part.",
        "properties": {
            "size": {"default": 3, "description": "How large.", "minimum": 1, "type": "integer", "format": "int64"},
            "note": {"description": "What to say.", "type": "string"},
        },
        "type": "object",
        "default": {"size": 3},
    }
    needed = {"rule": "has(self.needed)", "message": "write needed: x", "fieldPath": ".needed"}
    assert structural_schema(Outer) == {
        "description": "What is around.",
        "properties": {"inner": inner, "needed": {"description": "Must be.", "type": "string"}},
        "type": "object",
        VALIDATIONS: [needed | {"reason": "FieldValueRequired"}],
    }


def test_a_field_of_two_types_is_refused() -> None:
    class Either(ApiModel):
        value: int | str

    with pytest.raises(TypeError, match="one type per field"):
        structural_schema(Either)


def test_a_message_with_values_becomes_an_expression() -> None:
    rule = Rule(rule="self.a < self.b", message='a "%s" of %s', values=("self.a", "self.b"), field_path=".a")
    assert validations(rule)[VALIDATIONS] == [
        {
            "rule": "self.a < self.b",
            "messageExpression": '"a \\"%s\\" of %s".format([dyn(self.a), dyn(self.b)])',
            "fieldPath": ".a",
        }
    ]


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for child in schema.values():
            yield from nodes(child)
    elif isinstance(schema, list):
        for child in schema:
            yield from nodes(child)


def test_everything_a_user_sees_has_a_description() -> None:
    schema = moedeployment_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fields = {
        name: child
        for part in ("spec", "status")
        for node in nodes(schema["properties"][part])
        for name, child in node.get("properties", {}).items()
    }
    assert len(fields) > 30
    assert [name for name, child in fields.items() if not child.get("description")] == []
