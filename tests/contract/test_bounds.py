"""What is read from outside has an end: numbers that can be counted with, texts and lists of some size."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from moe_contract.base import MOST_WORDS, in_words
from moe_contract.model import ModelProblem
from moe_contract.report import DirectoryReport

MODEL = {
    "digest": "sha256:1",
    "architecture": "Mixtral",
    "layers": 6,
    "experts": 16,
    "top_k": 2,
    "bytes_per_expert": 393216,
    "dtype": "float32",
    "max_context": 1024,
}
REPLICA = {"replica": "a", "ready": True, "epoch": 1, "running": 0, "waiting": 0}
REPORT = {"term": 1, "revision": 1, "epoch": 1, "progress": {"copied": 0, "total": 0, "settled": True}}


def report(**changed: Any) -> DirectoryReport:
    return DirectoryReport.model_validate_json(json.dumps(REPORT | changed))


def test_the_largest_model_that_there_is_fits() -> None:
    assert report(model=MODEL | {"layers": 61, "experts": 512}).model.experts == 512


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        *(({"model": MODEL | {"layers": bad}}, "model.layers") for bad in (0, -1, 1e9, 10**30, "many", None)),
        *(({"model": MODEL | {"experts": bad}}, "model.experts") for bad in (0, 1e9, 32768)),
        *(({"model": MODEL | {"top_k": bad}}, "model.top_k") for bad in (0, 1e9)),
        ({"model": MODEL | {"bytes_per_expert": -1}}, "model.bytes_per_expert"),
        ({"model": MODEL | {"max_context": 2**60}}, "model.max_context"),
        ({"model": MODEL | {"digest": "x" * 1000}}, "model.digest"),
        ({"model": MODEL | {"dtype": "x" * 1000}}, "model.dtype"),
        ({"term": 2**60}, "term"),
        ({"revision": -1}, "revision"),
        ({"epoch": 1.5}, "epoch"),
        ({"progress": {"copied": -1, "total": 0, "settled": True}}, "progress.copied"),
        ({"shards": [{"index": 1024, "phase": "Ready"}]}, "shards.0.index"),
        ({"shards": [{"index": -1, "phase": "Ready"}]}, "shards.0.index"),
        ({"shards": [{"index": 0, "phase": "Ready", "held": 10**30}]}, "shards.0.held"),
        ({"shards": [{"index": 0, "phase": "Ready", "node": "x" * 1000}]}, "shards.0.node"),
        ({"shards": [{"index": 3, "phase": "Ready"}] * 2}, "shards"),
        ({"shards": [{"index": 0, "phase": "Ready"}] * 1025}, "shards"),
        ({"attention": [REPLICA] * 4097}, "attention"),
        ({"attention": [REPLICA | {"replica": "x" * 1000}]}, "attention.0.replica"),
        ({"traffic": {"layer_rows": -1}}, "traffic.layer_rows"),
        ({"traffic": {"visits": float("nan")}}, "traffic.visits"),
        ({"traffic": {"failovers": float("inf")}}, "traffic.failovers"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        report(**changed)
    assert in_words(caught.value).startswith(f"{field}: ")


def test_of_a_long_text_the_beginning_is_kept() -> None:
    words = "what " * 10_000
    told = (
        report(refused=words).refused,
        report(shards=[{"index": 0, "phase": "Ready", "problem": words}]).shards[0].problem,
        report(attention=[REPLICA | {"problem": words}]).attention[0].problem,
        ModelProblem(reason="PathNotFound", message=words).message,
    )
    assert all(len(text) == MOST_WORDS and text.startswith("what what") and text.endswith(" …") for text in told)
