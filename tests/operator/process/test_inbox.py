"""Events from another thread: the last of each object, in few turns of the loop, and none is lost."""

import asyncio
import threading
from typing import Any

from moe_operator.process.inbox import Inbox


def moe(name: str, version: int, uid: str = "u-1") -> dict[str, Any]:
    return {"metadata": {"namespace": "team", "name": name, "uid": uid, "resourceVersion": str(version)}}


class Taken:
    def __init__(self) -> None:
        self.events: list[tuple[str | None, str, int]] = []
        self.inbox = Inbox(asyncio.get_running_loop(), self.take)

    def take(self, kind: str | None, live: dict[str, Any]) -> None:
        self.events.append((kind, live["metadata"]["name"], int(live["metadata"]["resourceVersion"])))


async def test_what_was_not_taken_yet_is_replaced_by_what_happened_since() -> None:
    taken = Taken()
    for version in range(1000):
        taken.inbox.put("MODIFIED", moe("a", version))
    taken.inbox.put(None, moe("b", 7))
    await asyncio.sleep(0)
    assert taken.events == [("MODIFIED", "a", 999), (None, "b", 7)]
    taken.inbox.put("MODIFIED", moe("a", 1000))
    await asyncio.sleep(0)
    assert taken.events[2:] == [("MODIFIED", "a", 1000)]


async def test_a_new_object_is_not_lost_to_the_deletion_of_the_former() -> None:
    taken = Taken()
    taken.inbox.put("ADDED", moe("a", 9, "u-2"))
    taken.inbox.put("DELETED", moe("a", 8, "u-1"))
    await asyncio.sleep(0)
    assert sorted(taken.events, key=str) == [("ADDED", "a", 9), ("DELETED", "a", 8)]


async def test_a_flood_from_a_thread_ends_in_the_last_state() -> None:
    taken = Taken()

    def flood() -> None:
        for version in range(20_000):
            taken.inbox.put("MODIFIED", moe("a", version))

    thread = threading.Thread(target=flood)
    thread.start()
    await asyncio.to_thread(thread.join, 30)
    await asyncio.sleep(0)
    assert taken.events[-1][2] == 19_999
    versions = [version for _, _, version in taken.events]
    assert versions == sorted(versions)


def test_a_loop_that_is_closed_is_told_nothing() -> None:
    async def make() -> Taken:
        return Taken()

    taken = asyncio.run(make())
    taken.inbox.put("ADDED", moe("a", 1))
    assert taken.events == []
