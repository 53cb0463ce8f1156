"""What is known of the objects of a deployment."""

from typing import Any

from placement_objects import content, manifest, moved

from moe_operator.placements.store import PlacementStore


def live(revision: int, version: int, phase: str | None = None, **spec: Any) -> dict[str, Any]:
    body = manifest(content(moved(), revision, revision - 1), **spec)
    body["metadata"] |= {"uid": f"u-{revision}", "resourceVersion": str(version)}
    return {**body, "status": {"phase": phase} if phase else {}}


def test_one_that_cannot_be_read_takes_its_revision() -> None:
    store = PlacementStore()
    store.put(live(1, 10))
    store.put(live(2, 11, ofALaterRelease=1))
    book = store.book("team/tiny")
    assert [each.revision for each in book.placements] == [1]
    assert book.taken == {1, 2}


def test_one_that_is_over_is_read_and_small() -> None:
    store = PlacementStore()
    store.put(live(1, 10, "Active"))
    before = store.book("team/tiny").characters
    store.put(live(1, 11, "Superseded"))
    assert store.book("team/tiny").characters < before
    assert store.book("team/tiny").at(1) is not None


def test_whose_placements_there_are() -> None:
    store = PlacementStore()
    store.put(live(1, 10))
    assert store.deployments() == {"team/tiny"}
