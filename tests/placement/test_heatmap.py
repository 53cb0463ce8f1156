"""Pictures: what is drawn where, and scales that a few extreme values cannot set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_placement import MismatchError, Placement, PlacementError, RoutingStatistics, Topology, h100_nodes
from moe_placement.heatmap import BEYOND, by_shard, check_size, draw, log_lift, picture, relative_loads, scale_of

pytest.importorskip("matplotlib")

TOPOLOGY = h100_nodes(2, 2, 3)
PLACEMENT = Placement.of([[0, 1, 2, 3, 4, 0, 5, 6, 7, 0, 1, -1], np.arange(12) % 8, np.arange(12) % 8], [3] * 4, 8)


def seen(hot: float = 1.0) -> RoutingStatistics:
    """Three layers, of which the first has an expert ``hot`` times as loaded as others."""
    random = np.random.default_rng(0)
    statistics = RoutingStatistics.of_ids(random.random((2000, 3, 8)).argsort(axis=2)[:, :, :2], 8)
    statistics.load[0, 6] *= hot
    return statistics


def images(figure: Any) -> dict[str, Any]:
    """What each titled part shows."""
    return {axis.get_title(): axis.images[0] for axis in figure.axes if axis.get_title()}


def scales(figure: Any) -> dict[str, str]:
    """Whether each scale is open at its ends, by label."""
    bars = [axis._colorbar for axis in figure.axes if hasattr(axis, "_colorbar")]
    return {bar.ax.get_ylabel(): bar.extend for bar in bars}


@pytest.mark.parametrize(
    ("departures", "scale"),
    [
        ([0.1, -0.2, 0.15, 0.05], 0.2),
        ([0.1, -0.1, 0.1, 0.1, 50.0], 0.45),
        ([0.1, -0.1, 0.1, 0.1, -50.0, np.nan, 0, 0], 0.45),
        ([0, 0], 1),
        ([np.nan], 1),
        ([], 1),
        ([7], 7),
    ],
)
def test_a_scale_by_what_is_usual(departures: list[float], scale: float) -> None:
    assert scale_of(np.array(departures)) == pytest.approx(scale)


@pytest.mark.parametrize("seed", range(20))
def test_one_outlier_takes_at_most_a_little_of_a_scale(seed: int) -> None:
    usual = np.random.default_rng(seed).normal(size=64)
    without, beside = scale_of(usual), scale_of(np.append(usual, 1e6))
    assert beside <= 2 * without


def test_copies_stand_shard_by_shard_and_node_by_node() -> None:
    experts, shards, nodes = by_shard(PLACEMENT, TOPOLOGY, 0)
    assert experts.tolist() == [0, 1, 2, 0, 3, 4, 5, 6, 7, 0, 1]
    assert (shards.tolist(), nodes.tolist()) == ([3, 6, 9], [6])
    mixed = replace(TOPOLOGY, node_of_shard=(0, 1, 0, 1))
    experts, shards, nodes = by_shard(PLACEMENT, mixed, 0)
    assert experts.tolist() == [0, 1, 2, 5, 6, 7, 0, 3, 4, 0, 1]
    assert (shards.tolist(), nodes.tolist()) == ([3, 6, 9], [6])


def test_loads_are_relative_to_a_fair_part() -> None:
    placement = Placement.of([[0, 1, -1], [0, 1, -1]], [1, 1, 1], 2)
    statistics = RoutingStatistics.of_loads([[3, 1], [0, 0]])
    values = relative_loads(statistics, placement, Topology((0, 0, 0), (1, 1, 0), (1, 3, 1)))
    assert values[0, :2] == pytest.approx([3 / 1, 1 / 3])
    assert np.isnan(values[0, 2])
    assert np.isnan(values[1]).all()


def test_titles_name_the_layer_and_lines_part_shards_and_nodes() -> None:
    figure = picture(seen(), PLACEMENT, TOPOLOGY, [1])
    titles = images(figure)
    assert [title.split(":")[0] for title in titles][:2] == ["layer 1", "layer 1"]
    axis = next(axis for axis in figure.axes if "copies by shard" in axis.get_title())
    shards, nodes = axis.collections
    assert len(shards.get_segments()) == 2 * 3  # after each but the last, down and across
    border = [[[5.5, 11.5], [5.5, -0.5]], [[-0.5, 5.5], [11.5, 5.5]]]
    assert [segment.tolist() for segment in nodes.get_segments()] == border
    assert shards.get_linewidth()[0] < nodes.get_linewidth()[0]
    loads = next(axis for axis in figure.axes if axis.get_xlabel() == "shard")
    assert [len(part.get_segments()) for part in loads.collections] == [3, 1]
    assert loads.get_xlim() == (-0.5, 3.5)


def test_loads_are_centred_on_one_and_lifts_on_zero() -> None:
    for title, image in images(picture(seen(), PLACEMENT, TOPOLOGY, [0])).items():
        low, high = image.get_clim()
        assert (low + high) / 2 == pytest.approx(1 if "load" in title else 0)
        assert image.get_cmap().name == "RdBu_r"


def test_an_outlier_is_marked_and_washes_nothing_out() -> None:
    usual, odd = (picture(seen(hot), PLACEMENT, TOPOLOGY, [1]) for hot in (1.0, 500.0))
    assert set(scales(usual).values()) <= {"neither", "min", "max", "both"}
    (label,) = (label for label in scales(odd) if label.startswith("load"))
    assert "beyond the scale" in label
    assert scales(odd)[label] in ("max", "both")
    ranges = []
    for figure in (usual, odd):
        (image,) = (image for title, image in images(figure).items() if "load" in title)
        ranges.append(np.diff(image.get_clim()))
        assert image.get_cmap().get_over().tolist() == pytest.approx(colour(BEYOND[1]))
        assert image.get_cmap().get_under().tolist() == pytest.approx(colour(BEYOND[0]))
    assert ranges[1] <= 3 * ranges[0]


def colour(text: str) -> list[float]:
    return [*(int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0]


def test_a_pair_beyond_all_others_is_marked() -> None:
    statistics = seen()
    statistics.pairs[0, 2, 5] = statistics.pairs[0, 5, 2] = 1e9
    figure = picture(statistics, PLACEMENT, TOPOLOGY, [0])
    (label,) = (label for label in scales(figure) if label.startswith("log2 lift"))
    assert label == "log2 lift (2 beyond the scale)"
    assert scales(figure)[label] == "max"
    (image,) = (image for title, image in images(figure).items() if "by number" in title)
    assert image.get_clim()[1] < 0.2 * log_lift(statistics, 0).max()


@pytest.mark.slow
def test_all_layers_on_request(tmp_path: Path) -> None:
    titles = list(images(picture(seen(), PLACEMENT, TOPOLOGY, range(3))))
    assert titles[:3] == ["layer 0", "layer 1", "layer 2"]
    for layers in (None, [2], [0, 2]):
        draw(tmp_path / "all.svg", seen(), PLACEMENT, TOPOLOGY, layers)
        text = (tmp_path / "all.svg").read_text()
        shown = [layer for layer in range(3) if f"layer {layer}" in text]
        assert shown == (layers or [0, 1, 2])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([3], r"layers\[0\] is 3"),
        ([], "0 layers of 12 copies in one picture"),
        ([0] * 257, "257 layers of 12 copies in one picture; it can show at most 256"),
        (1, "layers is 1"),
    ],
)
def test_layers_that_cannot_be_drawn(layers: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match=message):
        draw(tmp_path / "x.png", seen(), PLACEMENT, TOPOLOGY, layers)
    with pytest.raises(MismatchError, match="4 shards, the topology 2"):
        draw(tmp_path / "x.png", seen(), PLACEMENT, h100_nodes(1, 2, 3))
    assert not list(tmp_path.iterdir())


def test_pictures_are_of_bounded_size() -> None:
    check_size(256, 500)
    with pytest.raises(PlacementError, match="58 layers of 2304 copies in one picture; it can show at most 12"):
        check_size(58, 2304)
    with pytest.raises(PlacementError, match="it can show at most 0"):
        check_size(1, 10_000)
