"""The client's rounds with shards that are functions: what is sent where, how it is summed, who is given up."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_shards import FakeCompletion, FakeFabric, FakeShard, FakeTransport, table_of
from linked import wait_linked
from waiting import wait_until

from moe_contract.applications import RecordConfig
from moe_placement.statistics import decode_statistics
from moe_placement.traces import read_trace
from moe_serving.engine.errors import ExpertsUnavailableError
from moe_serving.routing.client import RemoteExperts
from moe_serving.routing.dispatch import Patience
from moe_serving.routing.table import RoutingTable
from moe_serving.wire.endpoint import Address
from moe_serving.wire.errors import WireError

EXPERTS = 4
HIDDEN = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
IDS = torch.tensor([[0, 1], [2, 3]])
WEIGHTS = torch.tensor([[0.5, 0.25], [1.0, 2.0]])
EXPECTED = HIDDEN * ((IDS + 1) * WEIGHTS).sum(dim=1, keepdim=True)


def table(shards: Sequence[FakeShard], epoch: int = 1) -> RoutingTable:
    """What the shards hold by the directory's knowledge: all of it."""
    held = np.zeros((1, EXPERTS, len(shards)), dtype=bool)
    for position, shard in enumerate(shards):
        held[0, sorted(shard.held), position] = True
    return table_of(held, epoch)


def client(shards: Sequence[FakeShard], patience: Patience = Patience()) -> RemoteExperts[FakeCompletion]:  # noqa: B008
    experts = RemoteExperts(1, EXPERTS, FakeFabric(shards), "node", patience)
    experts.update(table(shards))
    wait_linked(experts)
    return experts


def forward(experts: RemoteExperts[FakeCompletion]) -> torch.Tensor:
    return experts.forward(0, HIDDEN, IDS, WEIGHTS)


def preferred(experts: RemoteExperts[FakeCompletion], shards: Sequence[FakeShard]) -> FakeShard:
    """A shard that ``forward`` asks while all is well."""
    forward(experts)
    experts.take_windows()
    return next(shard for shard in shards if shard.asked)


def test_each_shard_gets_one_message() -> None:
    shards = [FakeShard({0, 2}), FakeShard({1, 3})]
    assert torch.equal(forward(client(shards)), EXPECTED)
    assert [shard.asked for shard in shards] == [[[0, 2]], [[1, 3]]]


def test_shards_are_asked_at_once_and_waited_for_when_the_layer_is_collected() -> None:
    shards = [FakeShard({0, 1, 2, 3})]
    experts = client(shards)
    pending = experts.submit(0, HIDDEN, IDS, WEIGHTS)
    assert (len(shards[0].messages), shards[0].answers) == (1, [])
    experts.update(table(shards, epoch=2))
    assert experts.version.epoch == 1, "a layer is under way by the former table"
    assert torch.equal(pending.collect(), EXPECTED)
    assert experts.version.epoch == 2


def test_the_answer_does_not_depend_on_who_answers_first() -> None:
    """Sums in float32 depend on their order in the last bit, so it must always be the same."""
    ids, weights, hidden = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[1e-3, 1.0, 1e4, 1e8]]), torch.ones(1, 2)
    results = set()
    for slowest in range(EXPERTS):
        shards = [FakeShard({expert}, seconds=0.02 * (expert == slowest)) for expert in range(EXPERTS)]
        results.add(tuple(client(shards).forward(0, hidden, ids, weights)[0].tolist()))
    assert len(results) == 1


def test_a_broken_connection_is_made_good_by_another_copy() -> None:
    shards = [FakeShard({0, 1, 2, 3}), FakeShard({0, 1, 2, 3})]
    experts = client(shards)
    asked = preferred(experts, shards)
    asked.broken = True
    assert torch.equal(forward(experts), EXPECTED)
    (window,) = experts.take_windows()
    assert window.failovers > 0


def test_pairs_that_a_shard_has_freed_are_asked_for_elsewhere() -> None:
    """The table is stale: one shard holds nothing any more."""
    shards = [FakeShard({0, 1, 2, 3}), FakeShard({0, 1, 2, 3})]
    experts = client(shards)
    asked = preferred(experts, shards)
    asked.held = set()
    assert torch.equal(forward(experts), EXPECTED)
    (window,) = experts.take_windows()
    again = len(asked.asked[-1])
    assert window.failovers == again > 0
    assert window.load.tolist() == [[1, 1, 1, 1]]
    assert window.rows.tolist() == [2]
    assert window.pairs.sum() == 4 + again, "what is asked for again is a pair of two shards"


def test_what_is_routed_comes_to_statistics_and_to_files(tmp_path: Path) -> None:
    experts = client([FakeShard({0, 1, 2, 3})])
    experts.traces.configure(RecordConfig(path=str(tmp_path)))
    forward(experts)
    experts.take_windows()
    gathered = experts.take_statistics()
    assert gathered is not None
    assert decode_statistics(gathered.packed).load.tolist() == [[1, 1, 1, 1]]
    experts.close()
    (file,) = tmp_path.glob("*.npz")
    trace = read_trace(file)
    assert trace.ids.tolist() == IDS[:, None].tolist()
    assert trace.gates is not None
    assert trace.gates.tolist() == WEIGHTS[:, None].tolist()


def test_a_layer_in_which_all_copies_are_slow_still_ends() -> None:
    """Each shard given up doubles the patience: otherwise the copies of a slow layer would be given up in turn."""
    shards = [FakeShard({0, 1, 2, 3}, seconds=0.15), FakeShard({0, 1, 2, 3}, seconds=0.15)]
    assert torch.equal(forward(client(shards, Patience(late_seconds=0.05))), EXPECTED)


def test_a_newer_table_wakes_a_layer_that_waits() -> None:
    shards = [FakeShard({0, 1}), FakeShard({2, 3})]
    experts = RemoteExperts(1, EXPERTS, FakeFabric(shards), "node", Patience(unavailable_seconds=30))
    experts.update(table(shards[:1]))
    result: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: result.append(forward(experts)), daemon=True)
    thread.start()
    assert experts.version.epoch == 1
    experts.update(table(shards, epoch=2))
    thread.join(10)
    assert torch.equal(result[0], EXPECTED)
    assert experts.version.epoch == 2


@pytest.mark.parametrize(
    "shards", [[FakeShard({0, 1, 2, 3}, seconds=1.2)], [FakeShard({0, 1, 2})]], ids=["a late shard", "no copy"]
)
def test_who_waits_for_shards_says_so_again_and_again(shards) -> None:
    """Otherwise its replica would be taken for stuck."""
    signs: list[float] = []
    experts = RemoteExperts(
        1,
        EXPERTS,
        FakeFabric(shards),
        "node",
        Patience(unavailable_seconds=1.2),
        on_wait=lambda: signs.append(time.monotonic()),
    )
    experts.update(table(shards))
    wait_linked(experts)
    signs.append(time.monotonic())
    try:
        forward(experts)
    except ExpertsUnavailableError:
        assert 3 not in shards[0].held
    signs.append(time.monotonic())
    assert signs[-1] - signs[0] > 1
    assert len(signs) > 4
    assert max(after - before for before, after in itertools.pairwise(signs)) < 1


def test_an_older_table_is_ignored() -> None:
    shards = [FakeShard({0, 1, 2, 3})]
    experts = client(shards)
    experts.update(table([], epoch=0))
    assert torch.equal(forward(experts), EXPECTED)


def test_what_nobody_holds_is_named() -> None:
    experts = client([FakeShard({0, 1, 2})], Patience(unavailable_seconds=0.05))
    with pytest.raises(ExpertsUnavailableError, match=r"layer 0: no copy of experts \[3\] .* they are on no shard"):
        forward(experts)


def test_a_shard_that_cannot_be_reached_is_named_and_the_reason_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Unreachable(FakeFabric):
        def connect(self, address: Address, timeout: float) -> FakeTransport:
            raise WireError("no route to 10.1.2.3:4567")

    shards = [FakeShard({0, 1, 2, 3})]
    experts = RemoteExperts(1, EXPERTS, Unreachable(shards), "node", Patience(unavailable_seconds=0.3))
    experts.update(table(shards))
    links, (shard,) = experts._routes.links, experts._routes.adopt().shards
    wait_until(lambda: "no route" in links.problem(shard), "the first attempt to fail")
    with pytest.raises(ExpertsUnavailableError, match=r"they are on shard 0\. Wait") as told:
        forward(experts)
    experts.close()
    assert "10.1.2.3" not in str(told.value), "clients are told no address"
    assert "layer 0: shard 0 is not asked: no route to 10.1.2.3:4567" in caplog.text
