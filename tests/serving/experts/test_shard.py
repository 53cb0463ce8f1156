"""A whole shard in a process of its own, over real sockets: what it answers, and whom it hangs up on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cluster import NODE, ShardProcess
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import wait_until

from moe_contract.applications import ModelArgs, Network, ShardConfig
from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.experts.compute import compute
from moe_serving.experts.description import LoadOrder, ShardDescription, ShardIdentity
from moe_serving.experts.errors import OtherIncarnationError, ShardNotReadyError
from moe_serving.experts.messages import FP8_ROWS, ComputeReply, ComputeRequest
from moe_serving.experts.shard import QUIET_SECONDS, Shard
from moe_serving.fp8.rows import pack
from moe_serving.wire.blocking import Connection
from moe_serving.wire.errors import ConnectionLostError, HandshakeError, WireError
from moe_serving.wire.frames import encode
from moe_serving.wire.kinds import ExpertKind
from moe_serving.wire.transport import SocketFabric, decode_frame, encode_frame

WAIT_S = 120.0
HELD = [(layer, expert) for layer in range(4) for expert in range(0, 8, 2)]


def start(path: Path, network: Network = "auto") -> ShardProcess:
    """A shard of a Mixtral with 4 layers of 8 experts that has opened its checkpoint."""
    shard = ShardProcess(0, ModelArgs(path=str(path), dtype="float32", device="cpu", network=network))
    wait_until(lambda: shard.call("describe").address is not None, "the shard to open its checkpoint")
    shard.call("configure", ShardConfig(slots_per_shard=4, spare_slots=2))
    return shard


def load(shard: ShardProcess, experts: list[tuple[int, int]], free: tuple[tuple[int, int], ...] = ()) -> None:
    shard.call("assign", shard.call("describe").incarnation, [LoadOrder(*key) for key in experts], free)
    wait_until(lambda: not shard.call("describe").loading.queue, "the experts to be loaded")


@pytest.fixture(scope="module")
def path(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("mixtral")


@pytest.fixture(scope="module", params=["unix", "tcp"])
def shard(request: pytest.FixtureRequest, path: Path) -> Iterator[ShardProcess]:
    """Holds the even experts."""
    shard = start(path, request.param)
    load(shard, HELD)
    yield shard
    shard.kill()


@pytest.fixture
def description(shard: ShardProcess) -> ShardDescription:
    said: ShardDescription = shard.call("describe")
    assert said.address is not None
    assert said.digest is not None
    return said


def connect(description: ShardDescription) -> Connection:
    assert description.address is not None
    return Connection.connect(
        description.address, description.digest or "", "test", node=NODE, max_body=1 << 24, timeout=WAIT_S
    )


def request(experts: list[int], rows: int = 3, layer: int = 1) -> ComputeRequest:
    top_k = len(experts)
    return ComputeRequest(
        layer=layer,
        hidden=torch.randn(rows, 64),
        offsets=torch.arange(0, rows * top_k + 1, top_k, dtype=torch.int32),
        experts=torch.tensor(experts * rows, dtype=torch.int32),
        weights=torch.rand(rows * top_k),
    )


def ask(connection: Connection, asked: ComputeRequest) -> ComputeReply:
    connection.send(encode_frame(asked.to_message(), tag=5))
    frame = connection.receive_frame(WAIT_S)
    assert frame.tag == 5
    return ComputeReply.from_message(decode_frame(frame), asked)


def test_what_it_holds_it_computes_and_the_rest_it_names(
    shard: ShardProcess, description: ShardDescription, path: Path
) -> None:
    reader = ExpertReader(path, "float32", "cpu")
    connection = connect(description)
    for asked in (request([0, 6]), request([2, 3], rows=1), request([1, 2, 5], layer=3), request([4], layer=99)):
        reply = ask(connection, asked)
        held = {expert: reader.read(layer, expert) for layer, expert in HELD if layer == asked.layer}
        expected = compute(held, asked, torch.device("cpu"))
        torch.testing.assert_close(reply.values, expected.values)
        assert reply.missing.tolist() == expected.missing.tolist()
    connection.close()


def test_packed_rows_are_computed_and_answered_packed(description: ShardDescription) -> None:
    plain = request([0, 3])
    rows = pack(plain.hidden)
    packed = replace(plain, hidden=rows.values, scales=rows.scales)
    connection = connect(description)
    assert FP8_ROWS in connection.channel.peer_features
    expected = ask(connection, replace(plain, hidden=rows.unpacked(torch.float32)))
    reply = ask(connection, packed)
    assert torch.equal(reply.values, pack(expected.values).unpacked(torch.float32))
    assert reply.missing.tolist() == expected.missing.tolist() != []
    connection.close()


def test_the_description_says_what_is_held(description: ShardDescription) -> None:
    assert description.held is not None
    assert [(int(a), int(b)) for a, b in zip(*description.held.nonzero(), strict=True)] == HELD
    assert description.capacity == 4 * 4 + 2
    assert description.problem is None


def test_freed_experts_are_answered_with_not_held(path: Path) -> None:
    shard = start(path)
    try:
        load(shard, [(0, 0), (0, 1)])
        connection = connect(shard.call("describe"))
        assert ask(connection, request([0, 1], layer=0)).missing.tolist() == []
        load(shard, [], free=((0, 1),))
        assert ask(connection, request([0, 1], rows=2, layer=0)).missing.tolist() == [1, 3]
        connection.close()
    finally:
        shard.kill()


def test_orders_for_another_incarnation_are_refused(shard: ShardProcess) -> None:
    with pytest.raises(OtherIncarnationError):
        shard.call("assign", "somebody-else", (), ((0, 0),))
    assert shard.call("describe").held[0, 0]


def test_wrong_keys_and_models_are_refused(shard: ShardProcess, description: ShardDescription) -> None:
    assert description.address is not None
    with pytest.raises(HandshakeError, match="both must have loaded the same model"):
        SocketFabric("sha256:other", "test", NODE, "auto", 100).connect(description.address, WAIT_S)
    rejected = shard.call("describe").counts["rejected"]
    assert rejected >= 1


def assert_still_serving(description: ShardDescription) -> None:
    connection = connect(description)
    assert ask(connection, request([0])).missing.tolist() == []
    connection.close()


def test_requests_that_make_no_sense_end_their_connection_only(description: ShardDescription) -> None:
    good = connect(description)
    contradictory = request([0, 2])
    contradictory.offsets[1] = 99
    no_pairs = (torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0))
    too_wide = ComputeRequest(0, torch.zeros(1, 65), *no_pairs)
    other_dtype = ComputeRequest(0, torch.zeros(1, 64, dtype=torch.bfloat16), *no_pairs)
    for bad in (contradictory, too_wide, other_dtype):
        connection = connect(description)
        connection.send(encode_frame(bad.to_message(), tag=1))
        with pytest.raises(ConnectionLostError):
            connection.receive_frame(WAIT_S)
        connection.close()
    assert ask(good, request([0])).missing.tolist() == []
    good.close()


def test_an_oversized_frame_ends_its_connection_only(description: ShardDescription) -> None:
    connection = connect(description)
    header = bytearray(encode(ExpertKind.COMPUTE)[0])
    header[12:16] = ((1 << 28) + 1).to_bytes(4, "little")
    connection.send([bytes(header)])
    with pytest.raises(ConnectionLostError):
        connection.receive_frame(WAIT_S)
    connection.close()
    assert_still_serving(description)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_noise_harms_nobody(description: ShardDescription, noise: bytes, behind_the_handshake: bool) -> None:
    """Random bytes, before the handshake or as a frame's body after it."""
    if behind_the_handshake:
        connection = connect(description)
        connection.send(encode(ExpertKind.COMPUTE, noise))
        with pytest.raises(WireError):
            connection.receive_frame(WAIT_S)
        connection.close()
    else:
        assert description.address is not None
        target = description.address.target("auto", NODE)
        with socket.socket(socket.AF_UNIX if isinstance(target, str) else socket.AF_INET) as stranger:
            stranger.connect(target)
            stranger.sendall(noise)
    assert_still_serving(description)


def test_a_peer_that_reads_nothing_blocks_nobody(description: ShardDescription) -> None:
    """It asks for far more than socket buffers hold and never looks at the answers."""
    lazy = connect(description)
    for _ in range(50):
        lazy.send(encode_frame(request([0], rows=2000).to_message(), tag=1))
    assert_still_serving(description)
    lazy.close()


def test_the_probe_passes_while_it_serves(shard: ShardProcess) -> None:
    shard.call("probe", WAIT_S)


def test_it_drains_for_as_long_as_somebody_asks(path: Path) -> None:
    """Beside one whose patience ends first."""
    shard = Shard(ShardIdentity(0, NODE, "127.0.0.1"), ModelArgs(path=str(path), device="cpu"), ShardConfig())
    shard.drain(WAIT_S)  # not open yet: nobody can ask
    shard.start()
    wait_until(lambda: shard.describe().address is not None, "the shard to open its checkpoint")
    connection = connect(shard.describe())
    ended: list[str] = []
    impatient = threading.Thread(target=lambda: (shard.drain(0.1), ended.append("impatient")))
    patient = threading.Thread(target=lambda: (shard.drain(WAIT_S), ended.append("patient")))
    for thread in (impatient, patient):
        thread.start()
    until = time.monotonic() + 2.5 * QUIET_SECONDS
    while time.monotonic() < until:
        ask(connection, request([0]))
        time.sleep(0.02)
    assert ended == ["impatient"]
    patient.join(WAIT_S)
    assert ended == ["impatient", "patient"]
    connection.close()
    shard.stop(WAIT_S)


def test_stopping_finishes_what_is_in_work_and_closes(path: Path) -> None:
    shard = start(path)
    try:
        load(shard, [(1, 0)])
        said = shard.call("describe")
        connection = connect(said)
        assert ask(connection, request([0])).missing.tolist() == []
        shard.call("stop", WAIT_S)
        with pytest.raises(ConnectionLostError):
            connection.receive_frame(WAIT_S)
        connection.close()
        with pytest.raises(ConnectionLostError):
            connect(said)
    finally:
        shard.kill()


def test_a_checkpoint_that_cannot_be_opened_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    shard = ShardProcess(0, ModelArgs(path=str(tmp_path / "nowhere"), device="cpu"))
    try:
        wait_until(lambda: shard.call("describe").problem is not None, "the problem")
        said = shard.call("describe")
        assert "does not exist on this node" in said.problem
        assert said.address is None
        with pytest.raises(ShardNotReadyError, match="does not exist"):
            shard.call("assign", said.incarnation, (), ())
        shard.call("probe", WAIT_S)
    finally:
        shard.kill()
