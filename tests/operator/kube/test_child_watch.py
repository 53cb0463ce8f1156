"""Streams of an API server that answers oddly, and what is known of a kind by namespace."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fake_ray import Handler, serving
from kubeconfigs import kubeconfig

from moe_operator.api.names import LABEL_DEPLOYMENT
from moe_operator.kube.child_watch import ChildWatch, WatchedKind, whole
from moe_operator.kube.client import KubeClient
from moe_operator.kube.resources import SERVICES
from moe_operator.kube.store import ObjectStore

SOON = 10.0
ODD = {
    "an end at once": b"",
    "a lost history": b'{"type":"ERROR","object":{"code":410,"message":"too old"}}\n',
    "no JSON": b"<html>\n",
    "no object": b'{"type":"ADDED"}\n',
    "an object without a name": b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"6"}}}\n',
    "a list": b"[]\n",
    "a code that is no number": b'{"type":"ERROR","object":{"code":"gone"}}\n',
}


@asynccontextmanager
async def watching(
    answer: Handler, folder: Path, kind: WatchedKind, changed: Callable[[str], None], *namespaces: str
) -> AsyncIterator[asyncio.Task[None]]:
    """A watch at an API server that answers so, which ends with the block."""
    async with serving(answer) as url, await KubeClient.connect(kubeconfig(folder / "k", url)) as client:
        running = asyncio.create_task(ChildWatch(client, namespaces, [kind], changed).run())
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
async def test_odd_streams_end_nothing_and_are_not_asked_for_without_a_pause(tmp_path: Path, body: bytes) -> None:
    watched, once = 0, asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal watched
        if "watch" not in request.query:
            listing = {"items": [], "metadata": {"resourceVersion": "5"}}
            return web.Response(text=json.dumps(listing), content_type="application/json")
        watched += 1
        once.set()
        return web.Response(body=body)

    kind = WatchedKind(SERVICES, ObjectStore())
    async with watching(answer, tmp_path, kind, lambda _: None, "team") as running:
        async with asyncio.timeout(SOON):
            await once.wait()
        await asyncio.sleep(0.3)
        assert not running.done()
        assert watched <= 2
        assert kind.missing("team") is None


async def test_a_listing_tells_of_what_has_changed_and_of_all_after_a_refusal(tmp_path: Path) -> None:
    """Each time with other versions, as of nodes whose heartbeats go on."""
    listings, told, over = 0, list[set[str]](), asyncio.Event()
    names = ["ab", "ab", "bc", "bc"]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal listings
        if "watch" in request.query:
            return web.Response(body=ODD["a lost history"])
        if listings == len(names) - 1:
            kind.failed("forbidden", absent=False)
        told.append(set())
        if listings == len(names):
            over.set()
        items = [
            {"metadata": {"namespace": "t", "name": name, "resourceVersion": str(10 * listings + 1)}}
            for name in names[min(listings, len(names) - 1)]
        ]
        listings += 1
        listing = {"items": items, "metadata": {"resourceVersion": str(10 * listings)}}
        return web.Response(text=json.dumps(listing), content_type="application/json")

    concerns = lambda live: (live["metadata"]["name"],)  # noqa: E731
    kind = WatchedKind(SERVICES, ObjectStore(), concerns)
    async with watching(answer, tmp_path, kind, lambda key: told[-1].add(key)), asyncio.timeout(SOON):
        await over.wait()
    assert told[:4] == [{"a", "b"}, set(), {"a", "c"}, {"b", "c"}]


def test_of_a_namespace_that_was_not_listed_nothing_is_known() -> None:
    kind = WatchedKind(SERVICES, ObjectStore())
    kind.listed("a")
    kind.failed("forbidden", absent=False, scope="b")
    assert [kind.missing(each) for each in "abc"] == [None, "forbidden", "it was not listed yet"]
    kind.listed("b")
    assert (kind.missing("b"), kind.missing("c")) == (None, "it was not listed yet")


def test_of_all_namespaces_all_is_known() -> None:
    kind = WatchedKind(SERVICES, ObjectStore())
    kind.listed()
    assert kind.missing("a") is None


async def test_each_namespace_is_waited_for_by_itself() -> None:
    kind = WatchedKind(SERVICES, ObjectStore())
    waiting = asyncio.create_task(kind.answered("b", SOON))
    kind.listed("a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    kind.listed("b")
    async with asyncio.timeout(1.0):
        await waiting


async def test_what_goes_over_to_another_deployment_is_told_to_both(tmp_path: Path) -> None:
    told, over = list[str](), asyncio.Event()

    def pod(version: int, owner: str) -> dict[str, Any]:
        labels = {LABEL_DEPLOYMENT: owner}
        return {"metadata": {"namespace": "t", "name": "p", "resourceVersion": str(version), "labels": labels}}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "watch" not in request.query:
            listing = {"items": [pod(1, "a")], "metadata": {"resourceVersion": "5"}}
            return web.Response(text=json.dumps(listing), content_type="application/json")
        if "" in told:
            over.set()
        told.append("")
        events = ("MODIFIED", pod(6, "a")), ("MODIFIED", pod(7, "b")), ("DELETED", pod(8, "b"))
        return web.Response(text="".join(json.dumps({"type": kind, "object": live}) + "\n" for kind, live in events))

    kind = WatchedKind(SERVICES, ObjectStore(keep=whole))
    async with watching(answer, tmp_path, kind, told.append), asyncio.timeout(SOON):
        await over.wait()
    assert (told[:2], sorted(told[2:4]), told[4:]) == (["t/a", ""], ["t/a", "t/b"], ["t/b", ""])
