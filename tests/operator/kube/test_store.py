"""Events, listings and answers to writes in any order: the store says what is true, and nothing comes back to life."""

from collections.abc import Sequence
from typing import Any

import pytest
from clock import Clock
from hypothesis import given
from hypothesis import strategies as st

from moe_operator.kube.api import Json, Listing
from moe_operator.kube.store import GRAVE_SECONDS, ObjectStore, trimmed


def moe(version: int | str, uid: str = "u-1", name: str = "a", namespace: str = "team", **metadata: Any) -> Json:
    known = {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": {**known, **metadata}, "spec": {"made": str(version)}}


def made(store: ObjectStore, key: str = "team/a") -> str | None:
    live = store.get(key)
    return live["spec"]["made"] if live else None


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def store(clock: Clock) -> ObjectStore:
    return ObjectStore(clock)


def test_the_newer_stays_and_only_news_is_news(store: ObjectStore) -> None:
    assert store.put(moe(9))
    assert store.put(moe(10))  # as numbers: as text, 9 would be the greater
    assert not store.put(moe(9))
    assert not store.put(moe(10), watched=True)
    assert made(store) == "10"
    assert store.newest == 10
    assert store.keys() == {"team/a"}


def test_where_versions_are_no_numbers_the_last_to_come_stays(store: ObjectStore) -> None:
    store.put(moe("b"))
    assert store.put(moe("a"))
    assert made(store) == "a"
    assert store.remove(moe("a"))
    assert not store.put(moe("b"))
    assert store.put(moe("c", uid="u-2"))
    assert not store.remove(moe("z", uid="u-1"))
    assert made(store) == "c"


@pytest.mark.parametrize("late", [moe(8), moe(9)], ids=["an older event", "the answer to a write before the deletion"])
def test_a_deleted_object_is_not_brought_back(store: ObjectStore, late: Json) -> None:
    store.put(moe(8))
    assert store.remove(moe(10))
    assert not store.put(late)
    assert made(store) is None
    assert store.put(moe(11, uid="u-2"))
    assert made(store) == "11"


def test_a_late_deletion_of_the_former_object_leaves_the_new_one(store: ObjectStore) -> None:
    store.put(moe(8))
    store.put(moe(11, uid="u-2"))
    assert not store.remove(moe(10))
    assert made(store) == "11"


def test_the_answer_to_taking_off_the_last_finalizer_is_a_deletion(store: ObjectStore) -> None:
    store.put(moe(8, deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["x"]))
    assert made(store) == "8"
    assert store.put(moe(9, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert made(store) is None
    assert not store.put(moe(8, deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["x"]))


def test_a_listing_takes_away_what_is_gone_and_leaves_what_came_later(store: ObjectStore) -> None:
    for live in (moe(5), moe(6, name="gone"), moe(21, name="later"), moe(7, name="elsewhere", namespace="other")):
        store.put(live)
    assert store.replace_all(Listing([moe(19)], "20"), "team") == {"team/gone"}
    assert store.keys() == {"team/a", "team/later", "other/elsewhere"}
    assert made(store) == "19"
    assert not store.put(moe(6, name="gone"))
    assert store.put(moe(22, name="gone", uid="u-2"))


def test_what_a_listing_shows_is_alive_whatever_was_believed_before(store: ObjectStore) -> None:
    store.put(moe(8))
    store.remove(moe(8))  # a 404 of an API server that did not know the kind for a moment
    store.replace_all(Listing([moe(8)], "20"))
    assert made(store) == "8"


def test_a_listing_that_is_older_than_a_deletion_brings_nothing_back(store: ObjectStore) -> None:
    store.put(moe(8))
    store.remove(moe(20))
    store.replace_all(Listing([moe(8)], "15"))
    assert made(store) is None


def test_deletions_are_remembered_for_a_while_only(store: ObjectStore, clock: Clock) -> None:
    for number in range(100):
        store.remove(moe(number, name=f"n-{number}"))
    clock.now += GRAVE_SECONDS + 1
    store.remove(moe(200))
    assert store.put(moe(1, name="n-1"))
    assert not store.put(moe(199))


def test_a_conflict_that_repeats_on_the_same_version_is_told(store: ObjectStore) -> None:
    store.put(moe(8))
    assert not store.conflicted("team/a", "8")
    assert store.conflicted("team/a", "8")
    store.put(moe(9))
    assert not store.conflicted("team/a", "8")
    assert not store.conflicted("team/a", "9")
    assert not store.conflicted("team/b", "9")


def test_what_the_watch_does_not_deliver_is_told(store: ObjectStore, clock: Clock) -> None:
    store.put(moe(8), watched=True)
    store.put(moe(9, name="b"))  # the answer to a write, or a listing
    clock.now += 20
    assert store.unseen(30) is None
    store.put(moe(10, name="b"))
    clock.now += 11
    assert store.unseen(30) == "team/b"
    store.put(moe(9, name="b"), watched=True)  # it lags, but it lives
    assert store.unseen(30) is None
    clock.now += 31
    assert store.unseen(30) == "team/b"
    store.put(moe(10, name="b"), watched=True)
    assert store.unseen(30) is None


def test_what_nobody_reads_is_not_kept(store: ObjectStore) -> None:
    store.put(moe(8, managedFields=[{}], annotations={"mine": "x" * 200_000}, ownerReferences=[{}], finalizers=["a"]))
    live = store.get("team/a")
    assert live is not None
    assert live["metadata"].keys() == {"name", "namespace", "uid", "resourceVersion", "finalizers"}


def test_who_wrote_the_number_of_shards_is_kept(store: ObjectStore) -> None:
    fields = {"f:spec": {"f:experts": {".": {}, "f:shards": {}, "f:copies": {}}, "f:model": {"f:source": {}}}}
    managed = [
        {"manager": "kubectl", "operation": "Apply", "time": "2026-01-02T03:04:05Z", "fieldsV1": fields},
        {"manager": "other", "operation": "Update", "fieldsV1": {"f:spec": {"f:experts": {"f:copies": {}}}}},
        {},
    ]
    store.put({**moe(8, managedFields=managed), "spec": {"experts": {"shards": 2}}})
    live = store.get("team/a")
    assert live is not None
    (kept,) = live["metadata"]["managedFields"]
    assert kept["fieldsV1"] == {"f:spec": {"f:experts": {"f:shards": {}}}}
    assert (kept["manager"], kept["time"]) == ("kubectl", "2026-01-02T03:04:05Z")
    # What was trimmed once, as by a listing, stays as it is.
    assert trimmed(live) == live


@pytest.mark.parametrize("name", ["moe-operator.io/pause-rebalance", "moe-operator.io/drain-shards"])
def test_annotations_that_are_read_are_kept(store: ObjectStore, name: str) -> None:
    store.put(moe(8, annotations={"mine": "x", name: "0,2" * 200_000}))
    live = store.get("team/a")
    assert live is not None
    assert live["metadata"]["annotations"] == {name: ("0,2" * 200_000)[:16384]}


Happening = tuple[str, Json]


@st.composite
def histories(draw: st.DrawFn) -> list[Happening]:
    """What happened to one name: objects that come, change and go, as (what, object) with growing versions."""
    version, happenings = 0, []
    for uid, lives in enumerate(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))):
        for _ in range(lives):
            version += draw(st.integers(1, 60))
            happenings.append(("there", moe(version, uid=f"u-{uid}")))
        version += 1
        happenings.append(("gone", moe(version, uid=f"u-{uid}")))
    return happenings if draw(st.booleans()) else happenings[:-1]


def listing_after(history: Sequence[Happening], number: int) -> Listing:
    what, live = history[number]
    return Listing([live] if what == "there" else [], live["metadata"]["resourceVersion"])


@given(st.data())
def test_in_whatever_order_it_is_told_of(data: st.DataObject) -> None:
    history = data.draw(histories())
    numbers = range(len(history))
    told = data.draw(st.permutations([*numbers, *data.draw(st.lists(st.sampled_from(numbers), max_size=6))]))
    store = ObjectStore()
    for number in told:
        what, live = history[number]
        if data.draw(st.booleans()):
            store.replace_all(listing_after(history, data.draw(st.sampled_from(numbers))))
        store.put(live, data.draw(st.booleans())) if what == "there" else store.remove(live)
    what, last = history[-1]
    assert made(store) == (last["spec"]["made"] if what == "there" else None)


def test_the_version_of_a_listing_counts_also_where_it_is_empty(store: ObjectStore) -> None:
    store.replace_all(Listing([], "20"))
    assert store.newest == 20


@pytest.mark.parametrize(("phase", "kept"), [("Active", ["0 1"]), ("Superseded", ["-"]), (None, ["0 1"])])
def test_of_a_placement_that_is_over_the_layers_are_not_kept(phase: str | None, kept: list[str]) -> None:
    live = {**moe(1), "spec": {"content": {"revision": 1, "layers": ["0 1"]}}, "status": {"phase": phase}}
    assert trimmed(live)["spec"] == {"content": {"revision": 1, "layers": kept}}
    assert live["spec"] == {"content": {"revision": 1, "layers": ["0 1"]}}
