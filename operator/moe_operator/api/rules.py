"""CEL rules as they stand in a CRD. A message names the field, the value and the cure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

VALIDATIONS = "x-kubernetes-validations"
REQUIRED_CURE = "x-required-cure"
"""Marks a required field whose absence a CEL rule tells; the schema generator turns it into that rule."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule on the value ``self`` (and, where it names ``oldSelf``, on the way from there).

    Attributes:
        rule: CEL that is true of a good value.
        message: what is said of a bad one, with a ``%s`` for each of ``values``.
        values: CEL expressions of the values at fault. (Not joined with ``+``: the API server's cost estimate takes
            ``string(int)`` for endless and refuses the CRD.)
        field_path: the child that is to blame, relative to ``self``.
        reason: what the API server's answer calls it.
    """

    rule: str
    message: str
    values: tuple[str, ...] = ()
    field_path: str | None = None
    reason: Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"] | None = None

    def to_schema(self) -> dict[str, str]:
        """As an entry of ``x-kubernetes-validations``."""
        schema = {"rule": self.rule}
        if self.values:
            arguments = ", ".join(f"dyn({value})" for value in self.values)
            schema["messageExpression"] = f"{json.dumps(self.message)}.format([{arguments}])"
        else:
            schema["message"] = self.message
        if self.field_path is not None:
            schema["fieldPath"] = self.field_path
        if self.reason is not None:
            schema["reason"] = self.reason
        return schema


def validations(*rules: Rule) -> dict[str, Any]:
    """For ``json_schema_extra`` of a model or a field."""
    return {VALIDATIONS: [rule.to_schema() for rule in rules]}


def required_with_cure(cure: str) -> dict[str, Any]:
    """For ``json_schema_extra`` of a required field: its absence is told with the cure, not as ``Required value``."""
    return {REQUIRED_CURE: cure}


def field_required(field: str, cure: str) -> Rule:
    """``field`` of ``self`` is set."""
    return Rule(rule=f"has(self.{field})", message=cure, field_path=f".{field}", reason="FieldValueRequired")


def exactly_one_of(path: str, fields: Sequence[str], cure: str) -> Rule:
    """Exactly one of the optional ``fields`` of the object at ``path`` is set."""
    present = ", ".join(f"has(self.{field})" for field in fields)
    return Rule(
        rule=f"[{present}].exists_one(x, x)",
        message=f"{path} must name exactly one of: {', '.join(fields)}; {cure}",
    )


def immutable(path: str, cure: str) -> Rule:
    """A scalar that may not change once it is set."""
    return Rule(
        rule="self == oldSelf",
        message=f"{path} is immutable: it is '%s' and cannot become '%s'; {cure}",
        values=("oldSelf", "self"),
        reason="FieldValueForbidden",
    )


def http_url(path: str, example: str) -> Rule:
    """An absolute http(s) URL with a host, without query, fragment or credentials."""
    return Rule(
        rule=(
            "isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != '' "
            "&& !self.contains('?') && !self.contains('#') && !self.contains('@')"
        ),
        message=(
            f"{path} is '%s': it must be an http:// or https:// URL with a host and no query or credentials, "
            f"such as {example}"
        ),
        values=("self",),
    )
