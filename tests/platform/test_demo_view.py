"""How the demo draws a placement and the load."""

import numpy as np
import pytest

from moe_contract.model import ModelFacts
from moe_contract.report import DirectoryReport, Progress, ShardReport, Traffic
from moe_dev import demo_view
from moe_placement import balanced_placement
from moe_placement.encoding import encode_counts, encode_placement

FACTS = ModelFacts(
    digest="sha256:0", architecture="Mixtral", layers=2, experts=4, top_k=2, bytes_per_expert=1, dtype="float32",
    max_context=8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], "-"), ([3], "3"), ([0, 1, 2, 3], "0-3"), ([0, 2, 3, 9], "0 2-3 9"), ([5, 7], "5 7")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert demo_view.ranges(np.array(numbers, dtype=np.int64)) == text


@pytest.mark.parametrize(
    ("counts", "text"), [([0, 0], "··"), ([1, 8], "▁█"), ([4, 8, 0, 2], "▄█·▂"), ([7], "█"), ([1, 1000], "▁█")]
)
def test_bars(counts: list[int], text: str) -> None:
    assert demo_view.bars(np.array(counts, dtype=np.int64)) == text


def test_a_report_in_full() -> None:
    placement = balanced_placement(2, 4, (2, 2), 1)
    report = DirectoryReport(
        term=1,
        revision=3,
        epoch=5,
        model=FACTS,
        shards=(ShardReport(index=0, phase="Ready", pid=42, held=4, pairs=9),),
        progress=Progress(copied=8, total=8, settled=True),
        placement=encode_placement(placement),
        traffic=Traffic(
            layer_rows=10,
            visits=15,
            failovers=1,
            load=encode_counts(np.array([[8, 0, 4, 0], [0, 0, 0, 0]], dtype=np.int64)),
        ),
    )
    lines = demo_view.report_lines(report)
    assert lines[0] == "Placement, revision 3: the experts of each layer by shard"
    assert lines[1].split() == ["layer", "shard", "0", "shard", "1"]
    for layer in (0, 1):
        shown = [demo_view.ranges(np.flatnonzero(placement.held[layer, :, shard])) for shard in (0, 1)]
        assert lines[2 + layer].split() == [str(layer), *shown[0].split(), *shown[1].split()]
    assert lines[6:] == [
        "  layer 0   █·▄·  0:67% 2:33%",
        "  layer 1   ····  no tokens yet",
        "  10 rows through MoE layers, 1.50 shards visited by each, 1 pairs answered by a second copy",
        "  shard 0: process 42 now, 4 expert copies, 9 pairs",
    ]


def test_a_report_before_anything_is_known() -> None:
    report = DirectoryReport(term=0, revision=0, epoch=0, progress=Progress(copied=0, total=0, settled=False))
    assert demo_view.report_lines(report) == ["  no tokens routed yet"]
