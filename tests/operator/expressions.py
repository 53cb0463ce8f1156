"""Expressions of PromQL, of the chart's alerts and dashboard: what they ask for, beside what there is to be had."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

from moe_dev.helm import CHART

DASHBOARD = CHART / "dashboards" / "moe-operator.json"
# Labels that Prometheus' operator gives to all that a ServiceMonitor or PodMonitor finds.
OF_TARGETS = frozenset({"namespace", "service", "pod", "container", "endpoint", "job", "instance"})
_VARIABLES = {"$__rate_interval": "5m", "$namespace": ".*", "$service": ".*"}
OF_OPERATOR = "moe_operator_"


@dataclass(frozen=True, slots=True)
class Asked:
    """One metric that an expression asks for, and the labels by which it chooses or groups its samples."""

    metric: str
    labels: frozenset[str]


def of_dashboard() -> list[str]:
    """Expressions of all panels, with variables as Grafana would fill them in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [_filled(target["expr"]) for panel in panels for target in panel.get("targets", [])]


def of_variables() -> list[tuple[str, str]]:
    """Whose values Grafana asks for: the series, and a label of them."""
    read = json.loads(DASHBOARD.read_text())["templating"]["list"]
    asked = (re.fullmatch(r"label_values\((.+), (\w+)\)", each["definition"]) for each in read if "definition" in each)
    return [(_filled(found.group(1)), found.group(2)) for found in asked if found]


def of_alerts(rule: dict[str, Any]) -> list[str]:
    """Expressions of a PrometheusRule."""
    return [alert["expr"] for group in rule["spec"]["groups"] for alert in group["rules"]]


def asked(expression: str) -> list[Asked]:
    """All that it asks for; fails where it is no PromQL."""
    return list(_asked(promql_parser.parse(expression), frozenset()))


def samples(exposition: str) -> dict[str, set[str]]:
    """Names of samples and the labels that they have, by what is exposed; of a family that has none now, its name."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition):
        if not family.samples:
            found.setdefault(f"{family.name}_total" if family.type == "counter" else family.name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def metrics(expression: str) -> set[str]:
    """Names of all that it asks for."""
    return {each.metric for each in asked(expression)}


def is_of_operator(expression: str) -> bool:
    """Whether it asks the operator, and not a deployment, for something."""
    return any(metric.startswith(OF_OPERATOR) for metric in metrics(expression))


def missing(expressions: Iterable[str], exposition: str, of_operator: bool) -> list[str]:
    """What the operator, or else a deployment, is asked for and does not tell."""
    there = samples(exposition)
    all_asked = (each for expression in expressions for each in asked(expression))
    mine = {each for each in all_asked if each.metric.startswith(OF_OPERATOR) == of_operator}
    found = [f"{each.metric} is not there" for each in mine if each.metric not in there]
    for each in mine:
        unknown = each.labels - there.get(each.metric, each.labels) - OF_TARGETS
        found += [f"{each.metric} has no label {label}" for label in sorted(unknown)]
    return sorted(found)


def _asked(expression: Any, grouped: frozenset[str]) -> Iterator[Asked]:
    """``grouped``: labels by which something around it groups."""
    if isinstance(expression, promql_parser.VectorSelector):
        matchers = frozenset(matcher.name for matcher in expression.matchers.matchers)
        yield Asked(expression.name, grouped | matchers)
    elif isinstance(expression, promql_parser.MatrixSelector):
        yield from _asked(expression.vector_selector, grouped)
    elif isinstance(expression, promql_parser.AggregateExpr):
        by = expression.modifier.labels if expression.modifier else []
        yield from _asked(expression.expr, grouped | frozenset(by))
    elif isinstance(expression, promql_parser.BinaryExpr):
        yield from _asked(expression.lhs, grouped)
        yield from _asked(expression.rhs, grouped)
    elif isinstance(expression, promql_parser.Call):
        for argument in expression.args:
            yield from _asked(argument, grouped)
    elif isinstance(expression, promql_parser.ParenExpr | promql_parser.UnaryExpr):
        yield from _asked(expression.expr, grouped)
    elif not isinstance(expression, promql_parser.NumberLiteral | promql_parser.StringLiteral):
        raise TypeError(f"{type(expression).__name__} is not looked into")


def _filled(expression: str) -> str:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression
