"""The experts client against real shard processes that die, hang, move and lie."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from cluster import LocalCluster
from linked import wait_linked
from torch import Tensor

from moe_placement import one_host, simulate
from moe_serving.engine.errors import ExpertsUnavailableError
from moe_serving.engine.experts import ExpertsClient
from moe_serving.engine.local_experts import LocalExperts
from moe_serving.routing import gatherer
from moe_serving.routing.dispatch import Patience
from moe_serving.routing.errors import VerificationError

LAYERS, EXPERTS, TOP_K, HIDDEN = 4, 8, 2, 64
WAIT_S = 120.0


@pytest.fixture(scope="module")
def path(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("mixtral")


@pytest.fixture(scope="module")
def whole(path: Path) -> LocalExperts:
    """The truth: all experts in this process."""
    return LocalExperts(path, "float32", "cpu")


@pytest.fixture
def cluster(path: Path) -> Iterator[LocalCluster]:
    with LocalCluster.start(path, shards=4) as cluster:
        yield cluster


def layer_input(tokens: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    experts = torch.stack([torch.randperm(EXPERTS, generator=generator)[:TOP_K] for _ in range(tokens)])
    return torch.randn(tokens, HIDDEN, generator=generator), experts, torch.rand(tokens, TOP_K, generator=generator)


@torch.inference_mode()
def check(experts: ExpertsClient, whole: LocalExperts, rounds: int, seed: int = 0) -> None:
    """Layers of batches of 1 to 9 tokens come out as the whole model computes them."""
    for number in range(rounds):
        asked = layer_input(1 + number % 9, seed * 1000 + number)
        layer = number % LAYERS
        torch.testing.assert_close(experts.forward(layer, *asked), whole.forward(layer, *asked), atol=1e-4, rtol=1e-4)


class Stream:
    """Checks layers without pause in a thread, as an engine would ask for them."""

    def __init__(self, experts: ExpertsClient, whole: LocalExperts) -> None:
        self.rounds = 0
        self.slowest = 0.0
        self._experts, self._whole = experts, whole
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), f"waited {WAIT_S} s for a layer to end"
        if self._error is not None:
            raise self._error

    def go_on(self, rounds: int = 30) -> None:
        """Wait for that many more rounds."""
        goal, deadline = self.rounds + rounds, time.monotonic() + WAIT_S
        while self.rounds < goal and self._error is None:
            assert time.monotonic() < deadline, f"waited {WAIT_S} s for {rounds} rounds"
            time.sleep(0.005)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                begin = time.monotonic()
                check(self._experts, self._whole, rounds=5, seed=self.rounds)
                self.slowest = max(self.slowest, time.monotonic() - begin)
                self.rounds += 1
        except BaseException as error:  # noqa: BLE001 - raised again by the test's thread
            self._error = error


def wait_for_failovers(cluster: LocalCluster) -> None:
    """Counts reach the directory with the client's next report, a quarter of a second later on a machine at rest."""
    cluster.wait_until(lambda: cluster.report().traffic.failovers > 0, "the failovers to be reported")


@pytest.mark.parametrize("network", ["unix", "tcp"])
def test_rows_come_out_as_the_whole_model_computes_them(path: Path, whole: LocalExperts, network: str) -> None:
    with LocalCluster.start(path, shards=4, network=network) as cluster:  # type: ignore[arg-type]  # both are
        for shards, copies in ((1, 1), (2, 2), (4, 1), (4, 3)):
            cluster.place(shards, copies)
            check(cluster.client(), whole, rounds=36)


def test_counts(cluster: LocalCluster) -> None:
    cluster.place(shards=2, copies=1)
    experts = cluster.client()
    asked = layer_input(tokens=5, seed=1)
    for layer in (*range(LAYERS), *range(LAYERS)):
        experts.forward(layer, *asked)
    cluster.wait_until(lambda: cluster.report().traffic.layer_rows == 10 * LAYERS, "the counts to arrive")
    report = cluster.report()
    holders = cluster.holders()
    visits = 2 * sum(len({of_layer[expert] for expert in row}) for row in asked[1].tolist() for of_layer in holders)
    assert (report.traffic.visits, report.traffic.failovers) == (visits, 0)
    assert sum(shard.pairs for shard in report.shards) == 2 * 5 * TOP_K * LAYERS


def test_a_killed_shard_costs_nothing_but_time_while_copies_live(cluster: LocalCluster, whole: LocalExperts) -> None:
    cluster.place(shards=3, copies=2)
    with Stream(cluster.client(), whole) as stream:
        stream.go_on()
        cluster.kill(1)
        stream.go_on()
        cluster.restart(1)
        cluster.wait_settled()
        stream.go_on()
        cluster.kill(0)
        stream.go_on()
    wait_for_failovers(cluster)


def test_the_only_copy_is_waited_for(cluster: LocalCluster, whole: LocalExperts) -> None:
    cluster.place(shards=2, copies=1)
    with Stream(cluster.client(), whole) as stream:
        stream.go_on()
        cluster.kill(1)
        time.sleep(1)
        cluster.restart(1)
        stream.go_on()
    assert stream.slowest > 0.9


def test_a_copy_that_never_returns_is_named(cluster: LocalCluster) -> None:
    cluster.place(shards=2, copies=1)
    experts = cluster.client(Patience(late_seconds=0.2, unavailable_seconds=0.5))
    cluster.kill(1)
    hidden, _, weights = layer_input(tokens=1, seed=1)
    lost = [expert for expert, shard in enumerate(cluster.holders()[2]) if shard == 1]
    with pytest.raises(ExpertsUnavailableError, match=rf"layer 2: no copy of experts \[{lost[0]}, {lost[1]}\]"):
        experts.forward(2, hidden, torch.tensor([lost[:2]]), weights)


def test_the_shard_that_should_have_answered_is_named(cluster: LocalCluster, caplog: pytest.LogCaptureFixture) -> None:
    """It hangs instead of dying: it stays in the table, and the log says what it does."""
    cluster.place(shards=1, copies=1)
    experts = cluster.client(Patience(late_seconds=0.2, unavailable_seconds=0.5))
    asked = layer_input(tokens=1, seed=1)
    experts.forward(0, *asked)
    cluster.pause(0)
    try:
        with pytest.raises(ExpertsUnavailableError, match=r"they are on shard 0"):
            experts.forward(0, *asked)
        assert "shard 0 is not asked: it did not answer in time" in caplog.text
    finally:
        cluster.resume(0)


def test_a_late_shard_is_given_up_and_comes_back(cluster: LocalCluster, whole: LocalExperts) -> None:
    cluster.place(shards=2, copies=2)
    experts = cluster.client(Patience(late_seconds=0.3))
    check(experts, whole, rounds=9)
    cluster.pause(0)
    try:
        check(experts, whole, rounds=9)
    finally:
        cluster.resume(0)
    sent = cluster.report().shards[0].pairs

    def asked_again() -> bool:
        check(experts, whole, rounds=9)
        return cluster.report().shards[0].pairs > sent

    cluster.wait_until(asked_again, "shard 0 to be asked again")


def test_a_late_only_copy_is_waited_for(cluster: LocalCluster, whole: LocalExperts) -> None:
    cluster.place(shards=2, copies=1)
    with Stream(cluster.client(Patience(late_seconds=0.1)), whole) as stream:
        stream.go_on()
        cluster.pause(1)
        time.sleep(1)
        cluster.resume(1)
        stream.go_on()


def test_a_stale_table_is_harmless(cluster: LocalCluster, whole: LocalExperts) -> None:
    """While no directory tells it otherwise, the client asks a shard for what it has freed, and is sent elsewhere."""
    placement = cluster.place(shards=2, copies=2)
    experts = cluster.client()
    wait_linked(experts)
    cluster.stop_directory()
    shard = cluster.shards[0]
    said = shard.call("describe")
    held = sorted(placement.holdings(0))
    shard.call("assign", said.incarnation, (), tuple(held[::2]))
    check(experts, whole, rounds=18)
    assert sum(window.failovers for window in experts.take_windows()) > 0


def test_placements_change_under_load_bit_for_bit(path: Path, whole: LocalExperts) -> None:
    with LocalCluster.start(path, shards=4, verify=True) as cluster:
        cluster.place(shards=2, copies=2)
        with Stream(cluster.client(), whole) as stream:
            stream.go_on(10)
            for shards, copies in ((4, 2), (2, 1), (3, 2), (4, 1), (2, 2)):
                cluster.place(shards, copies)
                stream.go_on(10)
            cluster.kill(0)
            stream.go_on(10)
        wait_for_failovers(cluster)


def test_verify_mode_catches_a_damaged_copy(path: Path, whole: LocalExperts) -> None:
    with LocalCluster.start(path, shards=1, verify=True) as cluster:
        cluster.place(shards=1, copies=1)
        experts = cluster.client()
        asked = layer_input(tokens=4, seed=3)
        damaged = int(asked[1][2, 0])
        experts.forward(1, *asked)
        cluster.shards[0].call("corrupt", 1, damaged)
        with pytest.raises(VerificationError, match=f"layer 1: expert {damaged} answered row"):
            experts.forward(1, *asked)
        experts.forward(2, *asked)


def test_tokens_flow_while_the_directory_is_away(cluster: LocalCluster, whole: LocalExperts) -> None:
    cluster.place(shards=2, copies=2)
    experts = cluster.client()
    before = experts.version
    with Stream(experts, whole) as stream:
        cluster.stop_directory()
        stream.go_on()
        cluster.kill(0)
        stream.go_on()
        cluster.start_directory()
        cluster.restart(0)
        cluster.wait_settled()
        stream.go_on()
    assert experts.version.epoch > before.epoch
    assert experts.version.origin != before.origin


def test_statistics_of_live_traffic_outlive_the_directory(cluster: LocalCluster, monkeypatch) -> None:
    monkeypatch.setattr(gatherer, "WINDOW_SECONDS", 0.2)
    cluster.place(shards=2, copies=1)
    experts = cluster.client()
    asked = layer_input(tokens=5, seed=1)
    for layer in (*range(LAYERS), *range(LAYERS), 0, 1):
        experts.forward(layer, *asked)

    def told() -> float:
        found = cluster.statistics()
        return found.tokens if found is not None else 0.0

    cluster.wait_until(lambda: told() == 10, "the statistics to arrive")
    cluster.stop_directory()
    cluster.start_directory()
    cluster.wait_until(lambda: told() == 10, "the statistics to be told again")
    found = cluster.statistics()
    assert found is not None
    chosen = np.bincount(asked[1].numpy().ravel(), minlength=EXPERTS)
    assert (found.load == 2 * chosen).all()
    np.testing.assert_allclose(np.sort(found.sample.gates[0, 0]), np.sort(found.sample.gates[0, 1]))
    assert np.isfinite(found.sample.gates).all()


def test_the_simulator_foretells_all_figures(cluster: LocalCluster) -> None:
    """Real shards, steps of 1 to 9 tokens; the loads of shards are carried from one to the next."""
    placement = cluster.place(shards=4, copies=2)
    experts = cluster.client()
    wait_linked(experts)
    steps = [layer_input(1 + number % 9, seed=number) for number in range(60)]
    for asked in steps:
        for layer in range(LAYERS):
            experts.forward(layer, *asked)
    ids = torch.cat([chosen for _, chosen, _ in steps]).numpy()
    cluster.wait_until(lambda: cluster.report().traffic.layer_rows == len(ids) * LAYERS, "the counts to arrive")
    measured = cluster.report().figures
    topology = one_host(4, max(placement.shard_slots))
    predicted = simulate(np.repeat(ids[:, None], LAYERS, axis=1), placement, topology)
    assert measured is not None
    assert (measured.rows, measured.pairs) == (len(ids), ids.size * LAYERS)
    found = (measured.fan_out, measured.node_fan_out, measured.shard_balance, measured.node_balance)
    assert found == pytest.approx((predicted.fan_out, 0.0, predicted.shard_balance, predicted.node_balance))
