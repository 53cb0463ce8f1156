"""One Ray address: everything the operator reads from it and writes to it goes through one object.

Serve's PUT replaces all applications and has no lock, so two writers lose each other's work: inside the leader there is
one writer per address, which takes the changes of many deployments that wait at the same time into one PUT. A race with
a foreign writer between our GET and our PUT remains; what it loses is put back at the next reconcile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_operator.backends.errors import RayError
from moe_operator.backends.http import HttpClient
from moe_operator.backends.serve_rest.client import ServeClient
from moe_operator.backends.serve_rest.merge import Change, Conflict, Merge, body, merge, owned
from moe_operator.backends.serve_rest.state import ServeState
from moe_operator.errors import OperatorError

FRESH_SECONDS = 0.5
"""A state of this age is fresh enough to plan by; it spares a GET to each of many deployments on one Ray cluster."""
ABSENT_SECONDS = 1.0
"""Between two looks at a Ray cluster that seems to run no Serve."""
GATHER_SECONDS = 0.1
"""For which a writer waits for more changes: each PUT starts anew the builds of all applications not yet built."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change.

    Attributes:
        written: whether a PUT was needed.
        conflict: why the change was left out, if it was.
        lost: applications of the deployment that were written before and that somebody else removed since.
    """

    written: bool = False
    conflict: Conflict | None = None
    lost: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class _Request:
    change: Change
    token: str | None
    done: asyncio.Future[Outcome]


@dataclass(frozen=True, slots=True)
class _Written:
    """What the controller ``controller`` was told last for one deployment."""

    controller: str
    change: Change


@dataclass(slots=True)
class _Seen:
    """What one token showed last: a state or an error, and when by the monotonic clock."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    at: float = float("-inf")
    result: ServeState | RayError = field(default_factory=ServeState)


@dataclass(frozen=True, slots=True)
class _Gate:
    """What all writes of this process pass, whatever their address.

    One Ray cluster may have several addresses (localhost and 127.0.0.1, short and long names of a Service), which only
    its controller's id tells: so writes are serialized by that, too.
    """

    may_write: Callable[[], None]
    on_write: Callable[[bool], None]
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def lock(self, controller: str) -> asyncio.Lock:
        return self._locks.setdefault(controller, asyncio.Lock())


class ServeCluster:
    """The reader and writer of one address; made by ``ServeClusters``."""

    def __init__(self, http: HttpClient, dashboard_url: str, gate: _Gate) -> None:
        self._http = http
        self._dashboard_url = dashboard_url
        self._gate = gate
        self._seen: dict[str | None, _Seen] = {}
        self._pending: list[_Request] = []
        self._writing = asyncio.Lock()
        self._written: dict[str, _Written] = {}

    async def observe(self, token: str | None) -> ServeState:
        """What Serve runs, at most ``FRESH_SECONDS`` old; RayError says why it cannot be told."""
        seen = self._seen.setdefault(token, _Seen())
        async with seen.lock:
            if time.monotonic() - seen.at > FRESH_SECONDS:
                try:
                    seen.result = await self._client(token).read()
                except RayError as error:
                    seen.result = error
                seen.at = time.monotonic()
        if isinstance(seen.result, RayError):
            # A new one each time: a shared exception would collect the traceback of every task that raises it.
            raise type(seen.result)(*seen.result.args)
        return seen.result

    def remembered(self, core: str) -> Change | None:
        """What this process wrote last for a deployment: what to put back when it is gone. None after a restart."""
        written = self._written.get(core)
        return written.change if written else None

    async def apply(self, token: str | None, change: Change) -> Outcome:
        """Make a deployment run what ``change`` says; nothing is written where that is what was submitted last.

        Changes that wait for the same PUT go into it together. Each deployment's change is written with its own token:
        what one may write must not depend on what another may.

        Raises:
            RayError: it was not written.
            LeadershipLostError: from ``may_write``.
        """
        planned = merge(await self.observe(token), [change])
        if not planned.changed:
            return Outcome(conflict=planned.conflicts.get(change.core))
        request = _Request(change, token, asyncio.get_running_loop().create_future())
        self._pending.append(request)
        try:
            async with self._writing:
                if not request.done.done():
                    await self._flush(request)
        finally:
            if request in self._pending:
                self._pending.remove(request)
        return request.done.result()

    async def _flush(self, own: _Request) -> None:
        """Write all changes that wait with the token of ``own``, it among them; on failure each of them fails."""
        await asyncio.sleep(GATHER_SECONDS)
        batch = [request for request in self._pending if request.token == own.token]
        self._pending = [request for request in self._pending if request.token != own.token]
        try:
            outcomes = await self._write(own.token, [request.change for request in batch])
        except OperatorError as error:
            for request in batch:
                request.done.set_exception(error)
                # Retrieved here too: a request whose task has gone must not complain that nobody looked.
                request.done.exception()
        except BaseException:
            # The task that happened to write for all was cancelled: the next one that waits takes over.
            self._pending += [request for request in batch if request is not own]
            raise
        else:
            for request in batch:
                request.done.set_result(outcomes[request.change.core])

    async def _write(self, token: str | None, changes: list[Change]) -> Mapping[str, Outcome]:
        client = self._client(token)
        controller = (await self._read_for_write(client)).controller
        async with self._gate.lock(controller):
            state = await client.read()
            merged = merge(state, changes)
            if merged.changed:
                await self._put(client, body(state, merged.applications, changes))
        return {change.core: self._outcome(state, merged, change) for change in changes}

    async def _put(self, client: ServeClient, config: Mapping[str, Any]) -> None:
        self._gate.may_write()
        written = False
        try:
            await client.write(config)
            written = True
        finally:
            self._seen.clear()
            self._gate.on_write(written)

    async def _read_for_write(self, client: ServeClient) -> ServeState:
        """Read; where no Serve seems to run, look twice.

        Ray answers with an empty list also when it fails to find a running controller for a moment; a PUT made from
        that would delete whatever foreign applications there are.
        """
        state = await client.read()
        if not state.controller:
            await asyncio.sleep(ABSENT_SECONDS)
            state = await client.read()
        return state

    def _outcome(self, state: ServeState, merged: Merge, change: Change) -> Outcome:
        conflict = merged.conflicts.get(change.core)
        if conflict:
            return Outcome(conflict=conflict)
        before = self._written.get(change.core)
        lost: frozenset[str] = frozenset()
        if before and before.controller == state.controller:
            lost = (before.change.names & change.names) - owned(state, change.core).keys()
        if change.applications:
            self._written[change.core] = _Written(state.controller, change)
        else:
            self._written.pop(change.core, None)
        return Outcome(merged.changed, None, lost)

    def _client(self, token: str | None) -> ServeClient:
        return ServeClient(self._http, self._dashboard_url, token)


class ServeClusters:
    """The clusters by address, each made when it is first asked for.

    ``may_write`` is called before each PUT; it raises where this process may no longer write. ``on_write`` is called
    after each with whether it succeeded.
    """

    def __init__(
        self, http: HttpClient, may_write: Callable[[], None], on_write: Callable[[bool], None] = lambda ok: None
    ) -> None:
        self._http = http
        self._gate = _Gate(may_write, on_write)
        self._clusters: dict[str, ServeCluster] = {}

    def at(self, dashboard_url: str) -> ServeCluster:
        address = dashboard_url.rstrip("/")
        if address not in self._clusters:
            self._clusters[address] = ServeCluster(self._http, address, self._gate)
        return self._clusters[address]
