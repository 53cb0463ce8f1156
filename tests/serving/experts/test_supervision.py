"""What nobody foresaw in the threads of a shard is reported, and where it can pass the shard goes on."""

import pytest
from waiting import wait_until

from moe_contract.applications import ModelArgs, ShardConfig
from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.experts import shard as shard_module
from moe_serving.experts.description import LoadOrder, ShardIdentity
from moe_serving.experts.loader import ExpertLoader
from moe_serving.experts.shard import Shard


@pytest.fixture
def shard(checkpoint_of):
    shard = Shard(
        ShardIdentity(0, "node", "127.0.0.1"),
        ModelArgs(path=str(checkpoint_of("mixtral")), dtype="float32", device="cpu"),
        ShardConfig(slots_per_shard=4, spare_slots=2),
    )
    yield shard
    shard.stop(10)


def opened(shard):
    shard.start()
    wait_until(lambda: shard.describe().address is not None, "the shard to open")


def assign(shard, *load):
    shard.assign(shard.describe().incarnation, [LoadOrder(*key) for key in load], ())


def test_an_opener_that_fails_as_nobody_foresaw_is_told_of_and_tries_again(shard, monkeypatch):
    original = shard_module.ExpertReader

    def fail(*arguments):
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(shard_module, "OPEN_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(shard_module, "ExpertReader", fail)
    shard.start()
    wait_until(lambda: shard.describe().problem is not None, "the problem to be told")
    assert shard.describe().problem == "KeyError: 'nobody foresaw this'"
    monkeypatch.setattr(shard_module, "ExpertReader", original)
    wait_until(lambda: shard.describe().address is not None, "the shard to open after all")
    assert shard.describe().problem is None


def test_an_expert_that_fails_as_nobody_foresaw_lets_the_others_pass(shard, monkeypatch):
    original = ExpertReader.read_into

    def read_into(self, weights, layer, expert):
        if expert == 3:
            raise KeyError("nobody foresaw this")
        original(self, weights, layer, expert)

    monkeypatch.setattr(ExpertReader, "read_into", read_into)
    opened(shard)
    assign(shard, (0, 3), (0, 1), (0, 2))
    wait_until(lambda: shard.describe().loading.queue == ((0, 3),), "the others to be loaded")
    assert "expert 3 of layer 0 cannot be loaded: KeyError: 'nobody foresaw this'" in shard.describe().problem
    shard.probe(10)


def test_a_loader_that_is_dead_is_told_of_and_the_process_is_given_up(shard, monkeypatch):
    opened(shard)
    shard.probe(10)

    def die(self):
        raise ZeroDivisionError

    monkeypatch.setattr(ExpertLoader, "_next", die)
    assign(shard, (0, 1))
    wait_until(lambda: shard.describe().problem is not None, "the problem to be told")
    assert shard.describe().problem == "thread expert-loader has ended: ZeroDivisionError"
    with pytest.raises(RuntimeError, match="thread expert-loader has ended"):
        shard.probe(10)


def test_an_opener_that_is_dead_is_told_of_and_the_process_is_given_up(shard, monkeypatch):
    class Broken:
        def configure(self, config):
            raise ZeroDivisionError

    monkeypatch.setattr(shard_module._OpenShard, "open", lambda *arguments: Broken())
    shard.start()
    wait_until(lambda: shard._opener.failure is not None, "the thread to end")
    shard._open = None
    assert shard.describe().problem == "thread shard-opener has ended: ZeroDivisionError"
    with pytest.raises(RuntimeError, match="thread shard-opener has ended"):
        shard.probe(10)
