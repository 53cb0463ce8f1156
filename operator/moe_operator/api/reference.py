"""``docs/api.md``: the fields that work, their bounds and rules, conditions and reasons, made from the types. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from moe_operator.api import names
from moe_operator.api.crd import expertplacement_schema, moedeployment_schema
from moe_operator.api.reasons import (
    AutoscaleReason,
    ConditionType,
    PlacementConditionType,
    PlacementReason,
    Reason,
    RebalanceReason,
)
from moe_operator.api.rules import VALIDATIONS

_HEADER = f"""\
<!-- Generated from operator/moe_operator/api by `make crds`; edit the types, not this file. -->
# API reference

Group `{names.GROUP}`, version `{names.VERSION}`. Only what works today is here. Fields that are not are refused by
`kubectl apply`; other clients get them dropped.
"""

_MOE_DEPLOYMENT = f"""\
## {names.KIND}

Short name `{names.SHORT_NAME}`; also listed by `kubectl get {"` and `kubectl get ".join(names.CATEGORIES)}`.
`kubectl scale` and autoscalers set `spec.experts.shards`.
"""

_EXPERT_PLACEMENT = f"""\
## {names.PLACEMENT_KIND}

Short name `{names.PLACEMENT_SHORT_NAME}`; also listed by `kubectl get {names.PLACEMENT_CATEGORIES[0]}`.
Its name is `<deployment>-r<revision>`. Write large ones with `kubectl create` or `kubectl apply --server-side`: a plain
`kubectl apply` keeps the content a second time, in an annotation.
"""

_BOUNDS = {"minimum": "≥ {}", "maximum": "≤ {}", "maxLength": "at most {} characters", "maxItems": "at most {} items"}


def reference() -> str:
    """The whole document, Markdown."""
    sections = [
        _HEADER,
        *_kind(_MOE_DEPLOYMENT, moedeployment_schema(), ConditionType, Reason),
        "### Labels and annotations on Secrets\n",
        f"A Secret is read only if its label `{names.LABEL_USE}` allows that use: "
        + ", ".join(f"`{use}`" for use in names.SecretUse)
        + ".\n",
        f"A `{names.SecretUse.RAY_TOKEN}` is sent only where the annotation `{names.ANNOTATION_ADDRESSES}` of its "
        "Secret allows: entries `host:port` (by http or https), `http://host:port` or `https://host:port`, with commas "
        "between, compared with scheme, host and port of `spec.runtime.rayCluster.dashboardURL`. Without it nothing is "
        f"sent to the Ray cluster: `{Reason.SECRET_NOT_BOUND}`.\n",
        "### Annotations\n",
        f'`{names.ANNOTATION_PAUSE}: "true"` on a MoEDeployment: the operator proposes, moves and takes back nothing '
        "of its own accord (condition `RebalancePaused`), until the annotation is gone or `false`.\n",
        "### Reasons of `status.rebalance.lastDecision`\n",
        _table(("Reason", "Meaning"), _words(RebalanceReason)),
        "### Reasons of `status.autoscaling.decisions`\n",
        _table(("Reason", "Meaning"), _words(AutoscaleReason)),
        *_kind(_EXPERT_PLACEMENT, expertplacement_schema(), PlacementConditionType, PlacementReason),
    ]
    return "\n".join(sections)


def _kind(header: str, schema: Mapping[str, Any], conditions: Iterable[Any], reasons: Iterable[Any]) -> Iterator[str]:
    """What there is to say of one kind."""
    properties = schema["properties"]
    yield header
    yield "### spec\n"
    yield _table(("Field", "Type", "Default", "Meaning"), _fields("", properties["spec"]))
    yield "### Rules checked at `kubectl apply`\n"
    yield "\n".join(f"- {message}" for message in _rules(schema)) + "\n"
    yield "### status\n"
    yield _table(("Field", "Type", "Presence", "Meaning"), _fields("", properties["status"]))
    yield "### Conditions\n"
    yield _table(("Type", "Meaning"), _words(conditions))
    yield "### Reasons\n"
    yield _table(("Reason", "Meaning"), _words(reasons))


def _fields(path: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    required = {*schema.get("required", []), *_required_by_rule(schema)}
    for name, child in schema.get("properties", {}).items():
        inner = child.get("items", child)
        kind = f"[]{inner['type']}" if child["type"] == "array" else child["type"]
        default = _default(child, name in required)
        yield f"`{path}{name}`", kind, default, " ".join([child["description"], *_bounds(child)])
        yield from _fields(f"{path}{name}{'[]' if child['type'] == 'array' else ''}.", inner)


def _required_by_rule(schema: Mapping[str, Any]) -> Iterator[str]:
    for rule in schema.get(VALIDATIONS, []):
        if rule.get("reason") == "FieldValueRequired":
            yield rule["fieldPath"].removeprefix(".")


def _default(schema: Mapping[str, Any], required: bool) -> str:
    if "default" in schema and not isinstance(schema["default"], Mapping):
        return f"`{yaml.safe_dump(schema['default']).splitlines()[0]}`"
    return "required" if required else ""


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    if "enum" in schema:
        yield f"One of {', '.join(f'`{value}`' for value in schema['enum'])}."
    bounds = [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    if bounds:
        yield f"({', '.join(bounds)})"


def _rules(schema: Mapping[str, Any]) -> Iterator[str]:
    for rule in schema.get(VALIDATIONS, []):
        text = rule.get("message") or re.sub(r'^"(.*)"\.format\(.*\)$', r"\1", rule["messageExpression"])
        yield text.replace("'%s'", "%s").replace("%s", "…")
    for child in schema.get("properties", {}).values():
        yield from _rules(child)


def _words(words: Iterable[Any]) -> Iterator[tuple[str, ...]]:
    for word in words:
        yield f"`{word}`", word.meaning


def _table(head: tuple[str, ...], entries: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *entries]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
