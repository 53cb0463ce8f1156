"""What the benchmark of FP8 calls a miss, and how it counts bytes."""

from __future__ import annotations

import pytest
import torch
from benchmarks.fp8 import Bytes, Row, misses, table

from moe_serving.adaptive.curve import LossIncrease
from moe_serving.fp8.rows import pack


def rows(loss: float = 0.001, rows: float = 0.51, sums: float = 0.51) -> list[Row]:
    """Only the wire is judged."""
    other = LossIncrease(1.0, 1.0, 1.0)
    return [
        Row("as it is", other, 2.0, 2.0, 2.0, 1.0),
        Row("wire", LossIncrease(loss, loss, loss), rows, sums, 2.0, 1.0),
        Row("weights", other, 2.0, 2.0, 0.5, 1.0),
    ]


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        ({}, []),
        ({"loss": 0.002, "rows": 0.52, "sums": 0.52}, []),
        ({"loss": 0.0021}, ["the wire costs 0.0021 nats per token, aim 0.002"]),
        ({"rows": 0.53}, ["rows 0.530 and sums 0.510 of bf16's bytes, aim 0.52"]),
        ({"sums": 0.6}, ["rows 0.510 and sums 0.600 of bf16's bytes, aim 0.52"]),
    ],
)
def test_misses_are_named(found: dict[str, float], missed: list[str]) -> None:
    assert misses(rows(**found)) == missed
    assert len(table(rows(**found)).splitlines()) == 4


def test_scales_count() -> None:
    packed, counted = pack(torch.ones(3, 256)), Bytes()
    counted.add(packed.values, packed.scales)
    assert counted.of_bf16 == (256 + 4) / 512
    counted.add(torch.zeros(3, 256, dtype=torch.bfloat16), None)
    assert counted.of_bf16 == (3 * 260 + 3 * 512) / (2 * 6 * 256)
