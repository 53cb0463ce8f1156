"""The worked example of docs/sizing.md has the figures that its command prints."""

from benchmarks.sizing import COSTS, FACTS, memory, rows, table

from moe_dev.paths import CLONE


def test_the_example_has_the_figures_of_its_command() -> None:
    document = (CLONE / "docs" / "sizing.md").read_text()
    found = list(rows())
    assert memory() in document
    assert table(found) in document
    # No step is faster than reading a copy of the busiest GPU's experts, of which each holds as many as it has slots.
    least = FACTS.layers * found[0].slots * FACTS.bytes_per_expert / COSTS.memory_bandwidth * 1e3
    assert all(row.ms > 0.9 * least for row in found)
