"""Which copies can be asked, layer by layer, in the form in which the brain chooses among them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from moe_placement.dispatch import NOBODY, CopyChooser, copies_on
from moe_serving.routing.table import RoutingTable


class TableChoosers:
    """A chooser for each layer of a table, made when the layer is first asked for.

    Args:
        table: whose copies.
        connected: bool ``[G]``, the shards that can be asked.
        node: the node we run on; copies on it are preferred.
    """

    def __init__(self, table: RoutingTable, connected: NDArray[np.bool_], node: str) -> None:
        self._held = table.held
        self._connected = connected
        self._node_index = table.node_index
        self._home_node = table.nodes.index(node) if node in table.nodes else NOBODY
        self._choosers: dict[int, CopyChooser] = {}

    def of_layer(self, layer: int) -> CopyChooser:
        """It carries the load of shards along from call to call."""
        if layer not in self._choosers:
            self._choosers[layer] = self._chooser(self._held[layer] & self._connected)
        return self._choosers[layer]

    def without(self, layer: int, not_held: Iterable[tuple[int, int]]) -> CopyChooser:
        """One that knows of ``(position, expert)`` that the shards do not hold what the table says."""
        usable = self._held[layer] & self._connected
        for position, expert in not_held:
            usable[expert, position] = False
        return self._chooser(usable)

    def _chooser(self, usable: NDArray[np.bool_]) -> CopyChooser:
        return CopyChooser(copies_on(usable, self._node_index), self._home_node)
