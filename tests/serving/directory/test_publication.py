"""Versions of the table: epochs only grow, and a copy counts as released only when nobody can route to it."""

from __future__ import annotations

import numpy as np

from moe_serving.directory.leases import LEASE_SECONDS, NOBODY_BEHIND, Leases
from moe_serving.directory.messages import AttentionStatus
from moe_serving.directory.publication import Publication
from moe_serving.routing.table import ShardAddress, TableVersion
from moe_serving.wire.endpoint import Address

BOTH, FIRST, SECOND, NONE = (np.array([[marks]], dtype=bool) for marks in ([1, 1], [1, 0], [0, 1], [0, 0]))
STATUS = AttentionStatus(ready=True)


def address(index: int, incarnation: str = "i") -> ShardAddress:
    return ShardAddress(index, incarnation, Address("node", b"key", unix_name=f"/{index}"))


def published(*tables: np.ndarray) -> Publication:
    publication = Publication(1, 1, 2)
    for copies in tables:
        publication.publish(copies, [address(index) for index in (0, 1) if copies[0, 0, index]])
    return publication


def test_only_a_change_makes_a_new_epoch() -> None:
    publication = published(BOTH, BOTH)
    assert publication.epoch == 1
    assert publication.publish(BOTH, [address(0), address(1, "restarted")])
    assert publication.epoch == 2
    assert publication.table.shards[1].incarnation == "restarted"


def test_the_table_holds_only_shards_that_may_be_asked() -> None:
    table = published(SECOND).table
    assert [shard.index for shard in table.shards] == [1]
    assert table.held.shape == (1, 1, 1)
    assert table.complete
    assert not published(NONE).table.complete


def test_a_copy_is_released_when_the_epoch_without_it_is_reached() -> None:
    publication = published(BOTH, SECOND)
    assert not publication.released(acknowledged=1).any()
    assert (publication.released(acknowledged=2) == FIRST).all()
    publication.publish(BOTH, [address(0), address(1)])
    publication.publish(SECOND, [address(1)])
    assert not publication.released(acknowledged=3).any()
    assert (publication.released(acknowledged=4) == FIRST).all()


def test_a_copy_never_published_is_released_once_any_table_of_ours_is_in_use() -> None:
    publication = published(SECOND)
    assert not publication.released(acknowledged=-1).any()
    assert (publication.released(acknowledged=1) == FIRST).all()


def test_the_table_of_an_earlier_directory_never_passes_for_ours() -> None:
    publication = published(SECOND)
    assert publication.acknowledged_by(TableVersion(57, "earlier")) == -1
    assert publication.epoch == 58
    assert publication.table.version == TableVersion(58, publication.origin)
    assert publication.acknowledged_by(TableVersion(58, "earlier")) == -1
    assert publication.epoch == 59, "the same epoch of another origin is another table"
    assert publication.acknowledged_by(TableVersion(59, publication.origin)) == 59
    assert not publication.released(acknowledged=58).any()
    assert (publication.released(acknowledged=59) == FIRST).all()


def test_a_replica_without_a_table_moves_no_epoch() -> None:
    publication = published(SECOND)
    assert publication.acknowledged_by(TableVersion(0, "")) == -1
    assert publication.epoch == 1


def test_shards_come_and_go() -> None:
    publication = published(BOTH)
    publication.resize(3)
    assert (publication.copies == [[[True, True, False]]]).all()
    assert publication.epoch == 1
    publication.resize(1)
    assert [shard.index for shard in publication.table.shards] == [0]
    assert publication.epoch == 2


def test_leases() -> None:
    leases = Leases(started=100.0)
    leases.renew("a", 3, STATUS, now=101.0)
    leases.renew("b", 5, STATUS, now=101.0)
    assert leases.reached(now=101.0) == 3
    assert leases.acknowledged(now=104.9) == -1, "a predecessor's replicas may not have reported yet"
    leases.renew("a", 5, STATUS, now=105.0)
    assert leases.acknowledged(now=105.0) == 5
    assert set(leases.live(now=101.0 + LEASE_SECONDS)) == {"a"}, "b was silent too long"
    assert leases.acknowledged(now=200.0) == NOBODY_BEHIND
