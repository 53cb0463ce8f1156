"""A link that fails as nobody foresaw is tried again, like one that fails in the usual ways."""

import socket
import threading

import pytest
from waiting import wait_until

from moe_serving.routing.links import ShardLinks
from moe_serving.routing.table import ShardAddress
from moe_serving.wire import blocking
from moe_serving.wire.blocking import Connection
from moe_serving.wire.endpoint import Endpoint
from moe_serving.wire.errors import ConnectionLostError


class Transport:
    def close(self):
        pass


class Fabric:
    """Connects after having raised each of ``errors``."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def connect(self, address, timeout):
        if self.errors:
            raise self.errors.pop(0)
        return Transport()


@pytest.fixture
def shard():
    endpoint = Endpoint.open("node", "127.0.0.1", "tcp")
    yield ShardAddress(index=3, incarnation="a", address=endpoint.address)
    endpoint.close()


def test_whatever_connecting_raises_the_shard_is_asked_again(shard):
    links = ShardLinks(Fabric(OSError("setsockopt"), KeyError("x"), ConnectionLostError("gone")), threading.Condition())
    links.retarget([shard])
    wait_until(lambda: links.get(shard) is not None, "the link to be there")
    links.close()


def test_why_a_link_is_down_is_told(shard):
    links = ShardLinks(Fabric(*[OSError("setsockopt failed")] * 1000), threading.Condition())
    links.retarget([shard])
    wait_until(lambda: "setsockopt failed" in links.problem(shard), "the problem to be told")
    links.close()


def test_a_socket_that_cannot_be_set_up_is_a_lost_connection_and_closed(shard, monkeypatch):
    opened = []

    def fail(connected):
        opened.append(connected)
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(blocking, "configure", fail)
    with pytest.raises(ConnectionLostError, match="Invalid argument"):
        Connection.connect(shard.address, "s", "n", network="tcp", max_body=0, timeout=5)
    assert isinstance(opened[0], socket.socket) and opened[0].fileno() == -1
