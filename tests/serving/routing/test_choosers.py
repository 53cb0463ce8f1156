"""The choosers of a table: one per layer, as long as neither the table nor the connections change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_shards import FakeFabric, FakeShard, table_of
from linked import wait_linked

from moe_placement.dispatch import NOBODY
from moe_serving.routing.choosers import TableChoosers
from moe_serving.routing.client import RemoteExperts
from moe_serving.wire.errors import ConnectionLostError

EVERYWHERE = np.ones((2, 4, 3), dtype=bool)
ROW = np.array([[0, 1]])


def test_loads_are_those_of_a_layer() -> None:
    choosers = TableChoosers(table_of(EVERYWHERE), np.ones(3, dtype=bool), "elsewhere")
    asked = [choosers.of_layer(0).choose(ROW).tolist() for _ in range(3)]
    assert sorted(asked) == [[[shard] * 2] for shard in range(3)], "each has its turn"
    assert choosers.of_layer(1).load.tolist() == [0, 0, 0]


def test_what_cannot_be_asked_is_not_chosen() -> None:
    held = EVERYWHERE.copy()
    held[0, 1] = [True, False, False]
    choosers = TableChoosers(table_of(held), np.array([False, True, False]), "elsewhere")
    assert choosers.of_layer(0).choose(ROW).tolist() == [[1, NOBODY]]
    assert choosers.without(1, [(1, 0)]).choose(ROW).tolist() == [[NOBODY, 1]]
    assert choosers.of_layer(1).choose(ROW).tolist() == [[1, 1]], "of later layers it may hold it again"


def test_our_own_node_is_preferred() -> None:
    choosers = TableChoosers(table_of(EVERYWHERE, nodes=["a", "b", "c"]), np.ones(3, dtype=bool), "b")
    assert [choosers.of_layer(0).choose(ROW).tolist() for _ in range(3)] == [[[1, 1]]] * 3


def test_loads_start_anew_with_a_table_and_with_a_connection() -> None:
    shards = [FakeShard({0, 1, 2, 3}) for _ in range(3)]
    experts = RemoteExperts(2, 4, FakeFabric(shards), "elsewhere")
    experts.update(table_of(EVERYWHERE))
    wait_linked(experts)
    routes = experts._routes
    first = routes.choosers()
    assert routes.choosers() is first
    routes.links.fail(routes.adopt().shards[1], ConnectionLostError("reset by peer"))
    without_it = routes.choosers()
    assert without_it is not first
    assert (without_it.of_layer(0).choose(ROW) != 1).all()
    wait_linked(experts)
    assert routes.choosers() not in (first, without_it)
    before = routes.choosers()
    experts.update(table_of(EVERYWHERE, epoch=2))
    routes.adopt()
    assert routes.choosers() is not before
    experts.close()


def test_no_layer_waits_for_a_compiler() -> None:
    numba = pytest.importorskip("numba", reason="nothing is compiled without it")
    from moe_placement import dispatch_kernel  # noqa: PLC0415 - imports Numba
    from moe_serving.routing import cut_kernel  # noqa: PLC0415 - likewise

    shards = [FakeShard({0, 1, 2, 3}) for _ in range(3)]
    experts = RemoteExperts(2, 4, FakeFabric(shards), "elsewhere")
    values = [*vars(dispatch_kernel).values(), *vars(cut_kernel).values()]
    kernels = [value for value in values if isinstance(value, numba.core.dispatcher.Dispatcher)]
    compiled = [kernel.signatures for kernel in kernels]
    assert all(len(each.signatures) == 1 for each in (dispatch_kernel.choose, cut_kernel.cut))  # they are compiled
    experts.update(table_of(EVERYWHERE))
    wait_linked(experts)
    for ids in ([[0, 1]], [[0, 1], [2, 3], [1, 2]]):
        for chosen in (torch.tensor(ids), torch.tensor(ids).t().contiguous().t()):
            experts.forward(1, torch.ones(len(ids), 2), chosen, torch.ones(chosen.shape))
    assert [kernel.signatures for kernel in kernels] == compiled
    experts.close()
