"""What the demo shows of a deployment's inside: which shard holds which experts, and where the tokens went. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moe_contract.report import DirectoryReport
from moe_placement.encoding import decode_counts, decode_placement
from moe_placement.placement import Placement
from moe_placement.ranges import as_ranges

BARS = "▁▂▃▄▅▆▇█"
NO_LOAD = "·"
BUSIEST = 3


def report_lines(report: DirectoryReport) -> list[str]:
    """All that the demo shows of a directory's report."""
    lines = []
    if report.placement is not None:
        lines += [f"Placement, revision {report.revision}: the experts of each layer by shard"]
        lines += [*placement_lines(decode_placement(report.placement)), ""]
    if report.traffic.load is not None and report.model is not None:
        load = decode_counts(report.traffic.load, report.model.layers, report.model.experts)
        lines += ["Routing load seen: tokens by expert, and the busiest experts with their share", *load_lines(load)]
    return [*lines, traffic_line(report), *shard_lines(report)]


def placement_lines(placement: Placement) -> list[str]:
    """A table, one row per layer and one column per shard: the experts in its slots, in ranges."""
    cells = [[f"shard {shard}" for shard in range(placement.shards)]]
    for layer in range(placement.layers):
        held = placement.held[layer]
        cells.append([ranges(np.flatnonzero(held[:, shard])) for shard in range(placement.shards)])
    widths = [max(len(row[column]) for row in cells) for column in range(placement.shards)]
    titles = ["layer", *(str(layer) for layer in range(placement.layers))]
    return [
        f"  {title:<6}" + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for title, row in zip(titles, cells, strict=True)
    ]


def ranges(numbers: NDArray[np.int64]) -> str:
    """Ascending numbers in short: 0-3 7 9-10; `-` for none."""
    return as_ranges(numbers.tolist(), between=" ") or "-"


def load_lines(load: NDArray[np.int64]) -> list[str]:
    """Token-expert pairs `[layers, experts]`: per layer a bar per expert, and the busiest experts with their share."""
    lines = []
    for layer, row in enumerate(load):
        busiest = np.argsort(-row, kind="stable")[:BUSIEST]
        shares = " ".join(f"{expert}:{row[expert] / row.sum():.0%}" for expert in busiest if row[expert])
        lines.append(f"  layer {layer:<3} {bars(row)}  {shares or 'no tokens yet'}")
    return lines


def bars(counts: NDArray[np.int64]) -> str:
    """One character per count, its height relative to the largest; a dot for zero."""
    largest = max(int(counts.max(initial=0)), 1)
    return "".join(BARS[(int(count) * len(BARS) - 1) // largest] if count else NO_LOAD for count in counts)


def traffic_line(report: DirectoryReport) -> str:
    """The counts of all layers together, in words."""
    traffic = report.traffic
    if not traffic.layer_rows:
        return "  no tokens routed yet"
    fan_out = traffic.visits / traffic.layer_rows
    return (
        f"  {traffic.layer_rows} rows through MoE layers, {fan_out:.2f} shards visited by each,"
        f" {traffic.failovers} pairs answered by a second copy"
    )


def shard_lines(report: DirectoryReport) -> list[str]:
    """One line per shard: its process now, the copies it holds, the pairs it was sent."""
    return [
        f"  shard {shard.index}: process {shard.pid} now, {shard.held} expert copies, {shard.pairs} pairs"
        for shard in report.shards
    ]


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as what is in them, as kubectl shows them."""
    lines = (head, *rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
