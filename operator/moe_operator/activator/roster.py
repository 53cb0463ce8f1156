"""The deployments that the operator has announced, and which of them a request is for. No I/O."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from moe_operator.activator.announcement import Announcement
from moe_operator.api.names import api_service_name

API = "/v1"
"""Below the route of a deployment: what is asked there is for the model. What else is asked (``/metrics``) wakes
nobody: it comes by itself, again and again."""
MOST_ROUTE = 256
"""Characters of a route."""


LED_PAST_SECONDS = 60.0
"""For which requests to a deployment may still come after it was told that they are led past: not every proxy knows."""


class Roster:
    """By key of the MoEDeployment; ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._led_past: dict[str, float] = {}
        self._known: dict[str, Announcement] = {}
        self._routes: defaultdict[str, dict[str, Announcement]] = defaultdict(dict)
        self._news = asyncio.Event()

    def tell(self, key: str, told: Announcement | None) -> None:
        """What is known of one from now on; None: nothing any more."""
        before = self._known.pop(key, None)
        if before:
            del self._routes[before.route][key]
            if not self._routes[before.route]:
                del self._routes[before.route]
        if told is None or told.held:
            self._led_past.pop(key, None)
        elif before and before.held:
            self._led_past[key] = self._clock()
        if told:
            self._known[key] = self._routes[told.route][key] = told
        self._news.set()
        self._news = asyncio.Event()

    def covering(self, path: str) -> Iterator[Announcement]:
        """All whose route a path is below."""
        for route in _prefixes(path):
            yield from self._routes.get(route, _NONE).values()

    def asked(self, path: str, host: str) -> list[Announcement]:
        """Those whose model a request may be for. Routes may be alike, since each deployment has a Ray of its own: then
        ``host``, the header, tells them apart where it is the name of a Service, and else their keys do
        (``access.admitting``)."""
        found = [each for each in self.covering(path) if _is_of_the_api(path.removeprefix(each.route))]
        named = [each for each in found if _is_named(host, each)]
        return named or found

    def is_led_here(self, deployment: Announcement) -> bool:
        """Whether its Service leads requests here, or did a short time ago: what else comes went past whatever bounds
        who may connect to the deployment."""
        since = self._led_past.get(deployment.key)
        return deployment.held or (since is not None and self._clock() - since < LED_PAST_SECONDS)

    async def until_led_past(self, key: str) -> None:
        """Wait until requests to it are led past, or nothing is known of it any more."""
        while (told := self._known.get(key)) and told.held:
            await self._news.wait()


_NONE: Mapping[str, Announcement] = {}


def _prefixes(path: str) -> Iterator[str]:
    """All routes below which it may be, the longest first."""
    end = len(path)
    while end > 0:
        if end <= MOST_ROUTE:
            yield path[:end]
        end = path.rfind("/", 0, end)
    yield ""


def _is_of_the_api(rest: str) -> bool:
    return rest == API or rest.startswith(f"{API}/")


def _is_named(host: str, deployment: Announcement) -> bool:
    """``tiny-moe-api.team`` and what may follow, as the port or the cluster's domain."""
    labels = host.partition(":")[0].lower().split(".")
    return labels[:2] == [api_service_name(deployment.name), deployment.namespace]
