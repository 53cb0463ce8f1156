"""One Ray address: everything the operator reads from it and writes to it goes through one object.

Serve's PUT replaces all applications and has no lock, so two writers lose each other's work: inside the leader there is
one writer per address, which takes the changes of many deployments that wait at the same time into one PUT. A race with
a foreign writer between our GET and our PUT remains; what it loses is put back at the next reconcile.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from moe_contract.serve.merge import Change, Conflict, Merge, body, difference, merge, owned
from moe_contract.serve.state import ServeState
from moe_operator.errors import OperatorError, StaleBasisError
from moe_operator.offload.aside import Aside
from moe_operator.recent import Recent
from moe_operator.runtimes.credential import Check, Credential, always
from moe_operator.runtimes.errors import RayAnswerRefusedError, RayError
from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.port import Node
from moe_operator.runtimes.ray_cluster.basis import Basis
from moe_operator.runtimes.ray_cluster.serve_rest.client import ServeClient
from moe_operator.runtimes.ray_cluster.serve_rest.kept import Kept, Seen

FRESH_SECONDS = 0.5
"""A state of this age is fresh enough to decide by; it spares a GET to each of many deployments on one Ray cluster."""
ABSENT_SECONDS = 1.0
"""Between two looks at a Ray cluster that seems to run no Serve."""
GATHER_SECONDS = 0.1
"""For which a writer waits for more changes: each PUT starts anew the builds of all applications not yet built."""
NODES_SECONDS = 4.0
"""What Ray's nodes have changes seldom, and of what nobody has is told within ten seconds."""
SAME_CONTROLLER_SECONDS = 2.0
"""For which a write waits for others, at other addresses, that seem to go to the same Ray cluster."""


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """What became of a change.

    Attributes:
        written: whether a PUT was needed.
        conflict: why the change was left out, if it was.
        lost: applications of the deployment that were written before and that somebody else removed since.
        edited: those that somebody else changed since, and the path of what was changed.
    """

    written: bool = False
    conflict: Conflict | None = None
    lost: frozenset[str] = frozenset()
    edited: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Request:
    """``basis``: what the change was decided from; None where it is right whatever runs. ``check``: see ``apply``."""

    change: Change
    credential: Credential | None
    basis: Basis | None
    check: Check
    done: asyncio.Future[WriteOutcome]

    def is_stale(self, state: ServeState) -> bool:
        """Whether something else runs than the change was decided from."""
        return self.basis is not None and self.basis.is_stale(state, self.change.core)


@dataclass(slots=True)
class _Nodes:
    """What one token showed of Ray's nodes last, and when by the monotonic clock."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    at: float = float("-inf")
    nodes: tuple[Node, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Written:
    """What the controller ``controller`` was told last for one deployment."""

    controller: str
    change: Change


@dataclass(frozen=True, slots=True)
class _Writes:
    """What all writes of this process pass, whatever their address.

    One Ray cluster may have several addresses (localhost and 127.0.0.1, short and long names of a Service), which only
    its controller's id tells: so writes are serialized by that, too. But the id is what a server says of itself: one
    that gives another's and answers slowly must not keep the other from being written. So it is waited for a moment
    only. A write that goes on without may race with another of ours that goes by another name of the same cluster;
    what that loses is put back at the next look, as what a foreign writer takes.
    """

    may_write: Callable[[], None]
    on_write: Callable[[bool], None]
    _locks: weakref.WeakValueDictionary[str, asyncio.Lock] = field(default_factory=weakref.WeakValueDictionary)

    @asynccontextmanager
    async def of_controller(self, controller: str) -> AsyncIterator[None]:
        """Alone among those that name this controller, where that can be had within ``SAME_CONTROLLER_SECONDS``.

        A Ray cluster without a controller is serialized by its address alone.
        """
        async with AsyncExitStack() as held:
            if controller:
                lock = self._locks.setdefault(controller, asyncio.Lock())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SAME_CONTROLLER_SECONDS):
                        await held.enter_async_context(lock)
            yield


class ServeCluster:
    """The reader and writer of one address; made by ``ServeClusters``."""

    def __init__(self, http: HttpClient, dashboard_url: str, writes: _Writes, kept: Kept) -> None:
        self._http = http
        self._kept = kept
        self._dashboard_url = dashboard_url
        self._writes = writes
        self._seen: Recent[Credential | None, Seen] = Recent()
        self._pending: list[_Request] = []
        self._writing = asyncio.Lock()
        self._written: Recent[str, _Written] = Recent()
        self._attempted: Recent[str, Change] = Recent()
        self._aside = Aside()
        self._nodes: Recent[Credential | None, _Nodes] = Recent()

    async def observe(self, credential: Credential | None) -> ServeState:
        """What Serve runs, at most ``FRESH_SECONDS`` old; RayError says why it cannot be told."""
        seen = self._seen.get_or_make(credential, Seen)
        async with seen.lock:
            if seen.result is None or time.monotonic() - seen.at > FRESH_SECONDS:
                seen.result = await self._look(credential, seen)
                seen.at = time.monotonic()
                self._kept.note(seen)
            result = seen.result
        if isinstance(result, RayError):
            # A new one each time: a shared exception would collect the traceback of every task that raises it.
            raise type(result)(*result.args)
        return result

    async def _look(self, credential: Credential | None, seen: Seen) -> ServeState | RayError:
        client = self._client(credential)
        try:
            return await self._read_surely(client, seen)
        except RayError as error:
            return type(error)(*error.args)  # without its traceback, which holds the answer

    async def nodes(self, credential: Credential | None) -> tuple[Node, ...] | None:
        """What Ray's nodes have, at most ``NODES_SECONDS`` old; None where that cannot be told."""
        seen = self._nodes.get_or_make(credential, _Nodes)
        async with seen.lock:
            if time.monotonic() - seen.at > NODES_SECONDS:
                seen.nodes = await self._client(credential).nodes()
                seen.at = time.monotonic()
            return seen.nodes

    def remembered(self, core: str) -> Change | None:
        """What this process wrote last for a deployment: what to put back when it is gone. None after a restart."""
        written = self._written.get(core)
        return written.change if written else None

    def edited(self, core: str, state: ServeState) -> Mapping[str, str]:
        """Applications of a deployment that somebody else changed since this process wrote them, and the path of what.

        What is there then is neither what was written last nor what a write said of which no answer came.
        """
        before = self._written.get(core)
        if before is None or before.controller != state.controller:
            return {}
        there, attempted = owned(state, core), self._attempted.get(core)
        tried = {each["name"]: each for each in attempted.applications} if attempted else {}
        edited = {}
        for ours in before.change.applications:
            found = there.get(ours["name"])
            if found and found.config is not None and found.config not in (ours, tried.get(ours["name"])):
                edited[ours["name"]] = difference(ours, found.config) or ""
        return edited

    async def apply(
        self,
        credential: Credential | None,
        change: Change,
        basis: Basis | None = None,
        check: Check = always,
    ) -> WriteOutcome:
        """Make a deployment run what ``change`` says; nothing is written where that is what was submitted last.

        ``basis`` is what the change was decided from. None where it is right whatever runs, as a removal is. ``check``
        is asked just before the PUT, and so is that of ``credential``: what both were read from may have changed.

        Changes that wait for the same PUT go into it together. Each deployment's change is written with its own token:
        what one may write must not depend on what another may.

        Raises:
            RayError: it was not written.
            StaleBasisError: it was not written, since ``basis`` is no longer so.
            LeadershipLostError: from ``may_write``.
            OperatorError: from a check.
        """
        state = await self.observe(credential)
        merged = merge(state, [change])
        if not merged.changed:
            if change.applications and not merged.conflicts and self._written.get(change.core) is None:
                # As good as written by this process: what is lost or edited from now on is told of.
                self._written.put(change.core, _Written(state.controller, change))
            return WriteOutcome(conflict=merged.conflicts.get(change.core))
        del state, merged  # they may be large, and what follows may wait for long
        request = _Request(change, credential, basis, check, asyncio.get_running_loop().create_future())
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
        batch = [request for request in self._pending if request.credential == own.credential]
        self._pending = [request for request in self._pending if request.credential != own.credential]
        try:
            await self._write(own.credential, batch)
        except OperatorError as error:
            _fail(batch, error)
        except BaseException:
            # The task that happened to write for all was cancelled: the next one that waits takes over.
            self._pending += [request for request in batch if request is not own and not request.done.done()]
            raise

    async def _write(self, credential: Credential | None, batch: list[_Request]) -> None:
        client = self._client(credential)
        controller = (await self._read_surely(client, self._seen.get(credential))).controller
        async with self._writes.of_controller(controller):
            state = await self._read(client)
            if state.controller != controller:
                raise StaleBasisError(f"Serve at {self._dashboard_url} changed while it was being looked at")
            stale = [request for request in batch if request.is_stale(state)]
            _fail(stale, StaleBasisError(f"Serve at {self._dashboard_url} runs something else than was decided from"))
            current = await self._allowed([request for request in batch if request not in stale])
            changes = [request.change for request in current]
            merged = merge(state, changes)
            outcomes = [self._outcome(state, merged, request.change) for request in current]
            if merged.changed:
                for change in changes:
                    self._attempted.put(change.core, change)
                await self._put(client, body(state, merged.applications, changes))
        for request, outcome in zip(current, outcomes, strict=True):
            self._note_written(state, request.change, outcome)
            request.done.set_result(outcome)

    @staticmethod
    async def _allowed(requests: list[_Request]) -> list[_Request]:
        """Those whose checks say nothing against them; the others fail, each by itself."""
        allowed = []
        for request in requests:
            try:
                if request.credential is not None:
                    await request.credential.check()
                await request.check()
            except OperatorError as error:
                _fail([request], error)
            else:
                allowed.append(request)
        return allowed

    async def _put(self, client: ServeClient, config: str) -> None:
        self._writes.may_write()
        written = False
        try:
            await client.write(config)
            written = True
        finally:
            self._seen.clear()
            self._writes.on_write(written)

    async def _read(self, client: ServeClient) -> ServeState:
        """Read, unless the address is left alone for what it answered."""
        with self._aside.around(RayAnswerRefusedError):
            return await client.read()

    async def _read_surely(self, client: ServeClient, before: Seen | None) -> ServeState:
        """Read; where no Serve seems to run, and the look ``before`` did not say so, look twice.

        Ray answers with an empty list also when it fails to find a running controller for a moment. What is decided
        from that would begin anew, and a PUT would delete whatever foreign applications there are.
        """
        state = await self._read(client)
        if not state.controller and not (before and before.absent):
            await asyncio.sleep(ABSENT_SECONDS)
            state = await self._read(client)
        return state

    def _outcome(self, state: ServeState, merged: Merge, change: Change) -> WriteOutcome:
        conflict = merged.conflicts.get(change.core)
        if conflict:
            return WriteOutcome(conflict=conflict)
        before = self._written.get(change.core)
        if before is None or before.controller != state.controller:
            return WriteOutcome(merged.changed)
        there = owned(state, change.core)
        lost = (before.change.names & change.names) - there.keys()
        return WriteOutcome(merged.changed, None, lost, self.edited(change.core, state))

    def _note_written(self, state: ServeState, change: Change, outcome: WriteOutcome) -> None:
        if outcome.conflict:
            return
        if change.applications:
            self._written.put(change.core, _Written(state.controller, change))
        else:
            self._written.pop(change.core)
            self._attempted.pop(change.core)

    def _client(self, credential: Credential | None) -> ServeClient:
        return ServeClient(self._http, self._dashboard_url, credential)


def _fail(requests: list[_Request], error: OperatorError) -> None:
    for request in requests:
        if not request.done.done():
            request.done.set_exception(error)
            # Retrieved here too: a request whose task has gone must not complain that nobody looked.
            request.done.exception()


class ServeClusters:
    """The clusters by address, each made when it is first asked for.

    ``may_write`` is called before each PUT; it raises where this process may no longer write. ``on_write`` is called
    after each with whether it succeeded.
    """

    def __init__(
        self, http: HttpClient, may_write: Callable[[], None], on_write: Callable[[bool], None] = lambda ok: None
    ) -> None:
        self._http = http
        self._writes = _Writes(may_write, on_write)
        self._kept = Kept()
        self._clusters: Recent[str, ServeCluster] = Recent()

    def at(self, dashboard_url: str) -> ServeCluster:
        """The cluster at this address; what stands here about it is forgotten when nobody asks any more."""
        address = dashboard_url.rstrip("/")
        return self._clusters.get_or_make(address, lambda: ServeCluster(self._http, address, self._writes, self._kept))
