"""The rebalance benchmark at its shortest, on a real data plane: what no noise of the machine changes must come out."""

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import rebalance
from benchmarks.rebalancing import stage, streams
from benchmarks.rebalancing.exchange import exchanged
from benchmarks.rebalancing.models import TINY
from benchmarks.rebalancing.replay import replay

from moe_placement import one_host, simulate
from moe_placement.traces import read_trace

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.timeout(1800)]
TRACE = Path(__file__).parents[2] / "traces" / "tiny-16x2.npz"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as failed in figures is only late here, on a machine that has much else to do."""
    monkeypatch.setattr(streams, "LIMIT_S", 900.0)
    for module in (stage.cluster, stage.driver):
        monkeypatch.setattr(module, "WAIT_S", 900.0)


def test_nothing_fails_and_nothing_is_wrong_while_experts_move(tmp_path: Path) -> None:
    written = tmp_path / "rebalance.json"
    assert rebalance.main(["--short", "--figures", "1", "--migrations", "1", "--json", str(written)]) == 0
    value = {row["name"].rpartition(": ")[2]: row["value"] for row in json.loads(written.read_text())}
    assert value["migrations, verified"] == 1
    assert value["copies moved by the least of them"] >= 0.1
    assert value["requests failed"] == value["answers wrong"] == 0
    assert value["answers, complete to their last token"] >= 1


def test_a_replayed_trace_is_counted_as_it_is_simulated() -> None:
    ids = read_trace(TRACE).ids[::100]
    with replay(TINY, shards=2, slots=8, width=256) as through:
        placement = exchanged(through.start, 0.2, np.random.default_rng(0))
        for _ in range(2):  # by a table of its own each time
            measured = through.measure(placement, ids)
            foretold = simulate(ids, placement, one_host(2, 8))
            assert measured.tokens == len(ids)
            assert measured.fan_out == pytest.approx(foretold.fan_out)
            assert measured.balance == pytest.approx(foretold.shard_balance)
            assert measured.fan_out < through.busiest() < measured.fan_out / min(foretold.shard_balance, 0.5)
