"""What a Ray cluster's nodes have, from answers of its state API."""

import json
from typing import Any

import pytest

from moe_operator.runtimes.port import Node
from moe_operator.runtimes.ray_cluster.nodes import read_nodes


def node(state: str = "ALIVE", labels: Any = None, **resources: float) -> dict[str, Any]:
    named = {name.replace("accelerator_", "accelerator_type:"): amount for name, amount in resources.items()}
    return {"node_id": "n", "state": state, "resources_total": {"CPU": 8.0, **named}, "labels": labels or {}}


def answer(*nodes: dict[str, Any], total: int | None = None) -> bytes:
    told = {"total": len(nodes) if total is None else total, "num_filtered": len(nodes), "result": nodes}
    return json.dumps({"result": True, "msg": "", "data": {"result": told}}).encode()


def test_nodes_that_live() -> None:
    told = answer(
        node(GPU=4.0, accelerator_H100=1.0, labels={"ray.io/accelerator-type": "H100", "zone": "a"}),
        node("DEAD", GPU=8.0),
        node(),
    )
    labels = {"ray.io/accelerator-type": "H100", "zone": "a"}
    assert read_nodes(told) == (Node(4.0, frozenset({"H100"}), labels), Node())


@pytest.mark.parametrize(
    "body",
    [
        answer(node(GPU=1.0), total=200),
        b"<html>",
        b"[]",
        b"{}",
        json.dumps({"data": None}).encode(),
        json.dumps({"data": {"result": {"total": 1, "result": ["n"]}}}).encode(),
        json.dumps({"data": {"result": {"total": 1, "result": [{"state": "ALIVE", "resources_total": 1}]}}}).encode(),
        b'{"data": ' * 100_000,
    ],
    ids=lambda body: body[:40].decode(),
)
def test_of_what_is_not_all_of_them_nothing_is_concluded(body: bytes) -> None:
    assert read_nodes(body) is None
