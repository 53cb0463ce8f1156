"""Watches of the kinds of children, by the operator's label, and of nodes: from a listing and a stream into a store.

kopf watches what must be there. These kinds need not: KubeRay may be installed later or removed, and then kopf either
never sees it or ends; nor does it ask the API server for labelled objects alone, while of pods and Services there may
be very many. A stream follows a listing without a gap, so that deletions are known.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass, field

import aiohttp

from moe_operator.api.names import FIELD_MANAGER, LABEL_DEPLOYMENT, LABEL_MANAGED_BY
from moe_operator.kube.api import Json
from moe_operator.kube.client import KubeClient
from moe_operator.kube.credentials import Access
from moe_operator.kube.errors import ForbiddenError, KubeError, NotFoundError
from moe_operator.kube.resources import Resource
from moe_operator.kube.store import ObjectStore, key_of

SELECTOR = f"{LABEL_MANAGED_BY}={FIELD_MANAGER},{LABEL_DEPLOYMENT}"
STREAM_SECONDS = 40
DEAD_STREAM_SECONDS = 45.0
"""A stream without a word, also without its end, is given up."""
ABSENT_SECONDS = 5.0
"""Between two looks whether a kind has been installed."""
AGAIN_SECONDS = 2.0
"""After an answer that is none."""
PAUSE_SECONDS = 1.0
"""At least, between two looks of which the first brought nothing."""
FORBIDDEN_SECONDS = 15.0
"""After one that a right is missing."""
LIST_SECONDS = 30.0
MOST_LINE = 8 * 1024 * 1024
"""Bytes of one event: more than the API server stores of an object."""

logger = logging.getLogger(__name__)


class HistoryGoneError(KubeError):
    """What happened since the version asked for is not known any more: list anew."""


@dataclass(slots=True)
class WatchedKind:
    """One kind: its objects, and where they are known. A scope is a namespace, or None for all.

    Attributes:
        concerns: keys of the MoEDeployments that an object, as it is kept, is of importance to.
        selector: by labels; by default of what the operator made for a MoEDeployment, empty for all.
        absent: whether the API server does not know the kind.
        _said: by scope, why its objects are not known; None where they are.
    """

    resource: Resource
    objects: ObjectStore
    concerns: Callable[[Json], Iterable[str]] = lambda live: (key_of_owner(live),)
    selector: str = SELECTOR
    absent: bool = False
    _said: dict[str | None, str | None] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def missing(self, namespace: str) -> str | None:
        """Why its objects in this namespace are not known; None where they are."""
        return self._said.get(namespace, self._said.get(None, "it was not listed yet"))

    async def answered(self, namespace: str, seconds: float) -> None:
        """Wait until the API server has said something of it in this namespace, so long at most."""
        try:
            async with asyncio.timeout(seconds):
                while self._said.keys().isdisjoint((namespace, None)):
                    await self._news.wait()
        except TimeoutError:
            return

    def listed(self, scope: str | None = None) -> None:
        self._tell(scope, None, absent=False)

    def failed(self, why: str, absent: bool, scope: str | None = None) -> None:
        self._tell(scope, why, absent)

    def _tell(self, scope: str | None, why: str | None, absent: bool) -> None:
        self._said[scope], self.absent = why, absent
        self._news.set()
        self._news = asyncio.Event()


def whole(live: Json) -> Json:
    """An object as it is: of children all is compared with what they should be."""
    return live


@dataclass(frozen=True, slots=True)
class ChildWatch:
    """Watches ``kinds`` in ``namespaces`` (empty: all), and those that are in none, until cancelled.

    Attributes:
        changed: is called with the key of each MoEDeployment to which something that has changed, come or gone is of
            importance.
        alive: is called each time that a watch is known to go on, with what it does.
    """

    client: KubeClient
    namespaces: Collection[str]
    kinds: Iterable[WatchedKind]
    changed: Callable[[str], None]
    alive: Callable[[str], None] = lambda _: None

    async def run(self) -> None:
        """Raises nothing but a cancellation, or a fault of its own."""
        scopes: Iterable[str | None] = self.namespaces or (None,)
        async with aiohttp.ClientSession(trust_env=True) as session, asyncio.TaskGroup() as tasks:
            for kind in self.kinds:
                for scope in scopes if kind.resource.namespaced else (None,):
                    tasks.create_task(_Stream(self, session, kind, scope).run())


@dataclass(slots=True)
class _Stream:
    """One kind in one namespace, or in all."""

    watch: ChildWatch
    session: aiohttp.ClientSession
    kind: WatchedKind
    scope: str | None
    refused: Access | None = None
    said: str = ""

    async def run(self) -> None:
        while True:
            self.watch.alive(self.kind.resource.plural)
            try:
                await self._list_and_follow()
            except HistoryGoneError:
                await asyncio.sleep(PAUSE_SECONDS)
            except NotFoundError:
                self._lost(f"the kind {self.kind.resource.kind} is not installed", absent=True)
                await asyncio.sleep(ABSENT_SECONDS)
            except (KubeError, aiohttp.ClientError, TimeoutError) as error:
                why = str(error) or type(error).__name__
                if why != self.said:
                    logger.warning("watching %s: %s", self.kind.resource.plural, why)
                    self.said = why
                forbidden = isinstance(error, ForbiddenError)
                if forbidden:
                    self._lost(why, absent=False)
                await asyncio.sleep(FORBIDDEN_SECONDS if forbidden else AGAIN_SECONDS)

    async def _list_and_follow(self) -> None:
        async with asyncio.timeout(LIST_SECONDS):
            kind, keep = self.kind, self.kind.objects.kept
            listing = await self.watch.client.list_labelled(kind.resource, kind.selector, keep, self.scope)
        before = {key_of(live): live for live in kind.objects.all()}
        was_known = kind.missing(self.scope or "") is None
        kind.objects.replace_all(listing, self.scope)
        kind.listed(self.scope)
        self.said = ""
        self._tell_news(before, was_known)
        version = listing.version
        while True:
            self.watch.alive(self.kind.resource.plural)
            began = time.monotonic()
            came_to = await self._follow(version)
            if came_to == version:
                await asyncio.sleep(PAUSE_SECONDS - (time.monotonic() - began))
            version = came_to

    def _tell_news(self, before: dict[str, Json], was_known: bool) -> None:
        """Of what is another than ``before``; of all, where what there was could not be known."""
        now = {key_of(live): live for live in self.kind.objects.all()}
        states = [(before.get(key), now.get(key)) for key in before | now]
        self._tell(live for both in states if not was_known or _differ(*both) for live in both)

    def _lost(self, why: str, absent: bool) -> None:
        self.kind.failed(why, absent, self.scope)
        if absent:
            for live in list(self.kind.objects.all()):
                self.kind.objects.remove(live)
                self._tell([live])

    async def _follow(self, version: str) -> str:
        """Until the stream ends; the version that it came to."""
        endpoint = await self.watch.client.connection.endpoint(self.refused)
        query = {
            "watch": "1",
            "labelSelector": self.kind.selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(STREAM_SECONDS),
        }
        url = endpoint.server.rstrip("/") + self.kind.resource.path(self.scope)
        timeout = aiohttp.ClientTimeout(total=2 * DEAD_STREAM_SECONDS, sock_connect=5.0, sock_read=DEAD_STREAM_SECONDS)
        asked = self.session.get(
            url, params=query, headers=endpoint.headers, ssl=endpoint.ssl, proxy=endpoint.proxy, timeout=timeout
        )
        async with asked as answer:
            if answer.status != 200:
                self.refused = endpoint.access if answer.status == 401 else None
                raise _refusal(answer.status, f"HTTP {answer.status}")
            async for line in _lines(answer.content):
                version = self._take(line)
        return version

    def _take(self, line: bytes) -> str:
        """The version that it came to."""
        kind, live = _event(line, self.kind.resource.namespaced)
        if kind != "BOOKMARK":
            objects, key = self.kind.objects, key_of(live)
            before = objects.get(key)
            if kind == "DELETED":
                objects.remove(live)
            else:
                objects.put(live, watched=True)
            both = before, objects.get(key)
            if _differ(*both):
                self._tell(both)
        return str(live["metadata"]["resourceVersion"])

    def _tell(self, states: Iterable[Json | None]) -> None:
        """Each MoEDeployment once."""
        for key in {key for live in states if live for key in self.kind.concerns(live)}:
            self.watch.changed(key)


def _differ(was: Json | None, now: Json | None) -> bool:
    """What nobody reads of an object, as the heartbeat of a node, is no news to anybody."""
    if was is None or now is None:
        return was is not now
    return was is not now and _read(was) != _read(now)


def _read(live: Json) -> Json:
    metadata = {key: value for key, value in live["metadata"].items() if key != "resourceVersion"}
    return {**live, "metadata": metadata}


def _event(line: bytes, namespaced: bool) -> tuple[str, Json]:
    """Its type, and the object it tells of.

    Raises:
        KubeError: it tells that something went wrong, or is no event.
    """
    try:
        event = json.loads(line)
        kind, live = str(event["type"]), event["object"]
        if kind == "ERROR":
            raise _refusal(int(live.get("code", 0)), str(live.get("message", "")))
        named = () if kind == "BOOKMARK" else ("namespace", "name") if namespaced else ("name",)
        for name in ("resourceVersion", *named):
            str(live["metadata"][name])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise KubeError(f"a watch brought what is no event: {line[:200]!r}") from None
    return kind, live


def _refusal(status: int, said: str) -> KubeError:
    kinds: dict[int, type[KubeError]] = {403: ForbiddenError, 404: NotFoundError, 410: HistoryGoneError}
    return kinds.get(status, KubeError)(said, status)


def key_of_owner(child: Json) -> str:
    """The key of the MoEDeployment whose child it is."""
    metadata = child["metadata"]
    return f"{metadata['namespace']}/{(metadata.get('labels') or {}).get(LABEL_DEPLOYMENT, '')}"


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Each line, however long up to a bound; the reader's own bound is one that a RayService exceeds."""
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        *lines, last = rest.split(b"\n")
        rest = bytearray(last)
        if len(rest) > MOST_LINE:
            raise KubeError(f"an event of a watch has more than {MOST_LINE} bytes")
        for line in lines:
            if line:
                yield bytes(line)
