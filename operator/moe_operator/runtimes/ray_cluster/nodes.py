"""The nodes of a Ray cluster, as its state API tells them. Pure; what is kept of an answer is bounded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from moe_operator.runtimes.port import Node

NODES_PATH = "/api/v0/nodes"
"""Of the dashboard. It tells of 100 nodes, the dead ones included; of more nothing is concluded."""
MOST_NODES_BYTES = 1024 * 1024
_KIND = "accelerator_type:"
"""Ray has the kinds of accelerators of a node among its resources, by this prefix."""
_MOST_ENTRIES, _MOST_TEXT = 256, 1024


def read_nodes(body: bytes | bytearray) -> tuple[Node, ...] | None:
    """The nodes that live; None where that is not all of them, or the answer is none of Ray's."""
    try:
        told = json.loads(body)["data"]["result"]
        found = told["result"]
        if told["total"] > len(found):
            return None
        return tuple(_node(each) for each in found if each["state"] == "ALIVE")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _node(fields: Mapping[str, Any]) -> Node:
    resources, labels = fields["resources_total"], fields.get("labels") or {}
    kinds = [name.removeprefix(_KIND) for name in resources if name.startswith(_KIND)]
    return Node(
        gpus=float(resources.get("GPU", 0.0)),
        accelerators=frozenset(kind[:_MOST_TEXT] for kind in kinds[:_MOST_ENTRIES]),
        labels={str(k)[:_MOST_TEXT]: str(v)[:_MOST_TEXT] for k, v in list(labels.items())[:_MOST_ENTRIES]},
    )
