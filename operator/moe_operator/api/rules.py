"""CEL rules as they stand in a CRD. A message names the field, the value and the cure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moe_operator.endpoint import IPV4_HOST_PATTERN, MAPPED_HOST_PATTERN, MOST_HOST, NUMBER_HOST_PATTERN, URL_PATTERN
from moe_operator.text import INVISIBLE_RE2

QUOTED_SELF = "strings.quote(self)"
"""A text on one line: a message with a line end in it is dropped by the API server, and the rule shown in its place."""

VALIDATIONS = "x-kubernetes-validations"
REQUIRED_CURE = "x-required-cure"
"""Marks a required field whose absence a CEL rule tells; the schema generator turns it into that rule."""

_CRON_FIELD = "[0-9A-Za-z*/,#-]+"
# With a line end where YAML's `|` leaves one, as the parser takes it.
_CRON_PATTERN = rf"^\s*{_CRON_FIELD}(\s+{_CRON_FIELD}){{4}}\s*$"


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
        on_creation: whether ``oldSelf`` is an optional, so that the rule is judged of a new object as well.
    """

    rule: str
    message: str
    values: tuple[str, ...] = ()
    field_path: str | None = None
    reason: Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"] | None = None
    on_creation: bool = False

    def to_schema(self) -> dict[str, Any]:
        """As an entry of ``x-kubernetes-validations``."""
        schema: dict[str, Any] = {"rule": self.rule}
        if self.values:
            arguments = ", ".join(f"dyn({value})" for value in self.values)
            schema["messageExpression"] = f"{json.dumps(self.message)}.format([{arguments}])"
        else:
            schema["message"] = self.message
        if self.field_path is not None:
            schema["fieldPath"] = self.field_path
        if self.reason is not None:
            schema["reason"] = self.reason
        if self.on_creation:
            schema["optionalOldSelf"] = True
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


def absolute_path(path: str, example: str) -> tuple[Rule, ...]:
    """Of a file or folder, as nodes see it."""
    return (
        without_control_characters(path),
        Rule(
            rule="self.startsWith('/')",
            message=f"{path} is %s: it must be absolute, such as {example}",
            values=(QUOTED_SELF,),
        ),
    )


def http_url(path: str, example: str) -> tuple[Rule, ...]:
    """What ``moe_operator.endpoint`` can read: an absolute http(s) URL with a host that has one meaning, and a port."""
    port = "url(self).getPort()"
    return (
        Rule(
            rule=f"isURL(self) && self.matches({_cel(URL_PATTERN)})",
            message=(
                f"{path} is %s: it must be an http:// or https:// URL with a host in ASCII (a name beyond ASCII as "
                f"xn--name), no query or credentials, such as {example}"
            ),
            values=(QUOTED_SELF,),
        ),
        Rule(
            rule=(
                f"!isURL(self) || ((!self.matches({_cel(NUMBER_HOST_PATTERN)}) "
                f"|| self.matches({_cel(IPV4_HOST_PATTERN)})) && !self.matches({_cel(MAPPED_HOST_PATTERN)}))"
            ),
            message=(
                f"{path} is %s: its host would be read as an IP address, in another form than the usual one: write "
                "four decimal numbers such as 10.0.0.1, or an IPv6 address in brackets that holds no IPv4 address"
            ),
            values=(QUOTED_SELF,),
        ),
        Rule(
            rule=f"!isURL(self) || url(self).getHostname().size() <= {MOST_HOST}",
            message=f"{path} is %s: its host must be of at most {MOST_HOST} characters",
            values=(QUOTED_SELF,),
        ),
        Rule(
            rule=f"!isURL(self) || {port} == '' || ({port}.size() <= 5 && int({port}) >= 1 && int({port}) <= 65535)",
            message=f"{path} is %s: its port must be from 1 to 65535, as in {example}",
            values=(QUOTED_SELF,),
        ),
    )


def cron_fields(path: str, example: str) -> Rule:
    """What may be a cron expression: five fields. What the operator cannot read of one, or what never comes, is told by
    a condition."""
    return Rule(
        rule=f"self.matches({_cel(_CRON_PATTERN)})",
        message=(
            f"{path} is %s: it must have five fields, minute, hour, day of the month, month and day of the week, such "
            f"as {example}"
        ),
        values=(QUOTED_SELF,),
    )


def without_control_characters(path: str) -> Rule:
    """A text without what no name has in it and every program reads differently: NUL, line ends and their like."""
    return Rule(
        rule=f"!self.matches({_cel(INVISIBLE_RE2)})",
        message=(
            f"{path} is %s: it has a NUL, a line end or another control character, or one that is not seen, in it: "
            "write it without"
        ),
        values=(QUOTED_SELF,),
    )


def _cel(pattern: str) -> str:
    """A regular expression as a string of CEL."""
    return json.dumps(pattern)
