"""Pictures of a placement in characters: layers x experts, and shards. Pure.

The brain's pictures (``moe_placement.heatmap``) show co-activation and loads, from statistics of megabytes, as image
files; here is what the objects tell, in a terminal.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from moe_operator.kubectl.content import Content
from moe_operator.kubectl.terminal import Terminal, share_cells

SHADES = " ░▒▓█"
"""For no, one, two, three, and more copies."""
HOT = "◆"
_MOST_LAYERS = 256


def layers_by_experts(content: Content, busiest: Collection[tuple[int, int]], terminal: Terminal) -> list[str]:
    """A line for each layer and a column for each expert, or for some neighbours where there are more than columns.

    Args:
        busiest: (layer, expert) of those that get the most traffic.
    """
    label = len(str(len(content.layers) - 1)) + 1
    together = -(-content.experts // max(terminal.width - label, 1))
    hot = {(layer, expert // together) for layer, expert in busiest}
    lines = [
        f"{layer:>{label - 1}} "
        + _line(content.copies(layer), together, {at for of, at in hot if of == layer}, terminal)
        for layer in range(min(len(content.layers), _MOST_LAYERS))
    ]
    column = "an expert" if together == 1 else f"{together} experts (the most copies of one of them)"
    legend = f"copies: {SHADES[1]} 1  {SHADES[2]} 2  {SHADES[3]} 3  {SHADES[4]} more" + (
        f"  {HOT} busiest" if hot else ""
    )
    return [*terminal.wrapped(f"layers x experts; a column is {column}"), *lines, *terminal.wrapped(legend)]


def _line(copies: Sequence[int], together: int, hot: Collection[int], terminal: Terminal) -> str:
    cells = []
    for at, first in enumerate(range(0, len(copies), together)):
        most = max(copies[first : first + together])
        cells.append(terminal.paint(HOT, "hot") if at in hot else SHADES[min(most, len(SHADES) - 1)])
    return "".join(cells)


def shards(content: Content, shares: Sequence[float], terminal: Terminal) -> list[str]:
    """A line for each shard: copies it holds, and its part of the traffic where that is known (``shares``: 0 to 1)."""
    room, held = content.slots * len(content.layers), [content.held_by(shard) for shard in range(content.shards)]
    entries = [("SHARD", "COPIES", "SLOTS", *(("SHARE", "TRAFFIC") if shares else ()))]
    most = max(shares, default=0.0) or 1.0
    for shard, copies in enumerate(held):
        share = shares[shard] if shard < len(shares) else 0.0
        traffic = share_cells(share, most) if shares else ()
        entries.append((str(shard), str(copies), str(room), *traffic))
    return terminal.table(entries)
