"""The CustomResourceDefinitions, made from the types. Pure; ``generate`` writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from moe_operator.api import names
from moe_operator.api.deployment import Identity, MoEDeployment
from moe_operator.api.placement import ExpertPlacement
from moe_operator.api.schema import structural_schema

_HEADER = "# Generated from operator/moe_operator/api by `make crds`; edit the types, not this file.\n"


UNSEEN = -1
"""``status.observedGeneration`` of an object that no operator has looked at yet."""


def _column(name: str, path: str, kind: str = "string", wide: bool = False) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return column | {"priority": 1} if wide else column


COLUMNS = (
    _column("MODEL", ".status.model.architecture"),
    _column("SHARDS", ".spec.experts.shards", "integer"),
    _column("READY-SHARDS", ".status.readyShards", "integer"),
    _column("BALANCE", ".status.placement.balance"),
    _column("READY", '.status.conditions[?(@.type=="Ready")].status'),
    _column("REASON", '.status.conditions[?(@.type=="Ready")].reason'),
    _column("URL", ".status.url", wide=True),
    _column("TOKENS/S", ".status.cost.tokensPerSecond", wide=True),
    _column("COST/M-TOKENS", ".status.cost.perMillionTokens", wide=True),
    _column("CURRENCY", ".status.cost.currency", wide=True),
    _column("AGE", ".metadata.creationTimestamp", "date"),
)


PLACEMENT_COLUMNS = (
    _column("DEPLOYMENT", ".spec.deploymentRef.name"),
    _column("REV", ".spec.content.revision", "integer"),
    _column("PHASE", ".status.phase"),
    _column("DECISION", ".spec.decision"),
    _column("BALANCE", ".status.balance"),
    _column("FAN-OUT", ".status.fanOut"),
    _column("MOVES", ".status.price.moves", "integer"),
    _column("BYTES", ".status.price.bytes", "integer"),
    _column("AGE", ".metadata.creationTimestamp", "date"),
)


def moedeployment_schema() -> dict[str, Any]:
    """The schema of a whole MoEDeployment; the API server checks metadata by itself."""
    return _object_schema(MoEDeployment)


def expertplacement_schema() -> dict[str, Any]:
    """The schema of a whole ExpertPlacement."""
    return _object_schema(ExpertPlacement)


def moedeployment_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of MoEDeployment."""
    words = {
        "kind": names.KIND,
        "listKind": f"{names.KIND}List",
        "plural": names.PLURAL,
        "singular": names.SINGULAR,
        "shortNames": [names.SHORT_NAME],
        "categories": list(names.CATEGORIES),
    }
    scale = {
        "specReplicasPath": ".spec.experts.shards",
        "statusReplicasPath": ".status.shards",
        "labelSelectorPath": ".status.selector",
    }
    return _crd(words, COLUMNS, {"status": {}, "scale": scale}, moedeployment_schema())


def expertplacement_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of ExpertPlacement."""
    words = {
        "kind": names.PLACEMENT_KIND,
        "listKind": f"{names.PLACEMENT_KIND}List",
        "plural": names.PLACEMENT_PLURAL,
        "singular": names.PLACEMENT_SINGULAR,
        "shortNames": [names.PLACEMENT_SHORT_NAME],
        "categories": list(names.PLACEMENT_CATEGORIES),
    }
    return _crd(words, PLACEMENT_COLUMNS, {"status": {}}, expertplacement_schema())


def _object_schema(kind: type[Identity]) -> dict[str, Any]:
    schema = structural_schema(kind)
    properties = schema["properties"]
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {"type": "object"}
    schema["required"] = ["spec"]
    # Without it whoever waits by kstatus would take an object that nobody has looked at yet for one that is as it
    # should be.
    properties["status"]["default"] = {"observedGeneration": UNSEEN}
    return schema


def _crd(
    words: dict[str, Any], columns: Iterable[dict[str, Any]], subresources: dict[str, Any], schema: dict[str, Any]
) -> dict[str, Any]:
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": list(columns),
        "subresources": subresources,
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{words['plural']}.{names.GROUP}", "annotations": {_KEPT_BY_HELM: "keep"}},
        "spec": {"group": names.GROUP, "scope": "Namespaced", "names": words, "versions": [version]},
    }


_KEPT_BY_HELM = "helm.sh/resource-policy"
"""With the CRD all objects of its kind would go; the chart installs these very files."""


class _Dumper(yaml.SafeDumper):
    """Without anchors: equal parts are spelled out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(crd: dict[str, Any]) -> str:
    """As YAML, in the order of the types."""
    return _HEADER + yaml.dump(crd, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
