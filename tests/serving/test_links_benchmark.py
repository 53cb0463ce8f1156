"""How placements are compared over links, of figure 4: within a round, and judged where links are the limit."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.rebalancing.curve import AFFINITY, LOADS, SLOW, Curve, linked, planned, rows_of_links
from benchmarks.rebalancing.sizes import SHORT

from moe_placement import RoutingStatistics, one_host
from moe_placement.traces import read_trace

TRACE = Path(__file__).parents[2] / "traces" / "tiny-16x2.npz"


def curve(slow: dict[str, list[float]]) -> Curve:
    """At 0.005 Gb/s as given, and without a limit 100 a second."""
    made = Curve()
    for name, speeds in slow.items():
        made.points[name, 0.005].speed = speeds
        made.points[name, None].speed = [100.0] * len(speeds)
        made.figures[name] = FIGURES
    return made


class _Figures:
    fan_out, shard_balance, node_fan_out = 2.0, 0.9, 0.0


FIGURES = _Figures()


def judged(made: Curve) -> dict[str, bool | None]:
    rows = rows_of_links("it", made, 64, SHORT)
    return {row.name: row.reached for row in rows if row.aim is not None}


def test_a_ratio_is_the_median_of_those_within_a_round() -> None:
    made = curve({LOADS: [10.0, 20.0, 40.0], SLOW: [12.0, 22.0, 40.0], AFFINITY: [1.0, 1.0, 1.0]})
    assert made.ratio(SLOW, 0.005) == pytest.approx(1.1)
    assert made.ratio(AFFINITY, 0.005) == pytest.approx(0.05)


@pytest.mark.parametrize(("gain", "reached"), [(1.2, True), (1.05, False)])
def test_what_is_planned_for_slow_links_is_judged_where_these_are_the_limit(gain: float, reached: bool) -> None:
    made = curve({LOADS: [50.0], SLOW: [50.0 * gain], AFFINITY: [50.0]})
    assert judged(made) == {
        f"it, 0.005 Gb/s: {SLOW} against {LOADS}, tokens/s": reached,
        "it: rates at which links are the limit": True,
    }


def test_where_links_are_no_limit_nothing_is_judged_and_that_is_below_the_aim() -> None:
    assert judged(curve({LOADS: [51.0], SLOW: [99.0], AFFINITY: [99.0]})) == {
        "it: rates at which links are the limit": False
    }


def test_the_shards_of_a_node_share_its_link() -> None:
    topologies = linked(one_host(4, 5, 1000, 64), 2)
    assert set(topologies) == {AFFINITY, SLOW}
    assert topologies[SLOW].node_of_shard == (0, 0, 1, 1)
    assert topologies[SLOW].costs.link_bandwidth == pytest.approx(0.02e9 / 8 / 2)
    placements = planned(RoutingStatistics.of_ids(read_trace(TRACE).ids[::40], 16), topologies)
    assert len(placements) == 4 and all(each.shards == 4 for each in placements.values())
