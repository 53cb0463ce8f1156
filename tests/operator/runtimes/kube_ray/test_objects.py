"""What is waited for before anything is known."""

import asyncio
from collections.abc import Iterator

from moe_operator.api.names import child_labels
from moe_operator.kube.api import Json, Listing
from moe_operator.runtimes.kube_ray.objects import KubeRayObjects
from moe_operator.runtimes.kube_ray.stores import PodStore


async def test_kinds_that_nobody_tells_of_are_waited_for_together() -> None:
    async with asyncio.timeout(0.5):
        await KubeRayObjects().answered("team", 0.1)


def pod_on(node: str, owner: str, version: int) -> Json:
    metadata = {"name": owner, "namespace": "t", "labels": child_labels(owner, "expert-shard")}
    return {"metadata": {**metadata, "resourceVersion": str(version)}, "spec": {"nodeName": node}}


def test_whose_pods_there_are_follows_the_pods_and_is_looked_up() -> None:
    store = PodStore()
    store.put(pod_on("n", "a", 1))
    store.put(pod_on("n", "b", 2))
    assert _nodes(store.of("t/a"), store.of("t/b"), store.of("t/c")) == [["n"], ["n"], []]
    store.put(pod_on("m", "b", 3))
    store.of("t/b").clear()  # theirs who asked
    assert _nodes(store.of("t/a"), store.of("t/b")) == [["n"], ["m"]]
    store.remove(pod_on("n", "a", 4))
    assert _nodes(store.of("t/a"), store.of("t/b")) == [[], ["m"]]
    store.replace_all(Listing([pod_on("n", "c", 5)], "6"))
    assert _nodes(store.of("t/b"), store.of("t/c")) == [[], ["n"]]
    looks = _counted(store)
    store.put(pod_on("n", "d", 7))
    assert [len(store.of(f"t/{name}")) for name in "abcd" * 250] == [0, 0, 1, 1] * 250
    assert len(looks) == 1


def _nodes(*found: list[Json]) -> list[list[str]]:
    return [[pod["spec"]["nodeName"] for pod in pods] for pods in found]


def _counted(store: PodStore) -> list[None]:
    """Grows each time that all pods are gone through."""
    looks: list[None] = []
    everything = store.all

    def counted() -> Iterator[Json]:
        looks.append(None)
        return everything()

    store.all = counted  # type: ignore[method-assign] # to see how often
    return looks


def test_whose_pods_are_on_a_node_follows_the_pods_and_is_looked_up() -> None:
    store = PodStore()
    store.put(pod_on("n", "a", 1))
    store.put(pod_on("n", "b", 2))
    assert store.owners_on("n") == {"t/a", "t/b"}
    assert store.owners_on("m") == frozenset()
    store.put(pod_on("m", "b", 3))
    assert (store.owners_on("n"), store.owners_on("m")) == ({"t/a"}, {"t/b"})
    store.remove(pod_on("n", "a", 4))
    assert store.owners_on("n") == frozenset()
    store.replace_all(Listing([pod_on("n", "c", 5)], "6"))
    assert (store.owners_on("n"), store.owners_on("m")) == ({"t/c"}, frozenset())
    looks = _counted(store)
    store.put(pod_on("n", "d", 7))
    assert [store.owners_on(f"n{index}") for index in range(1000)] == [frozenset()] * 1000
    assert len(looks) == 1
