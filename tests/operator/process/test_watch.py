"""However kopf ends, whoever waits for it hears of it at once; only streams that were accepted are signs of life."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import kopf
import pytest
from aiohttp import web
from fake_ray import serving
from kubeconfigs import kubeconfig

from moe_operator.errors import OperatorError
from moe_operator.kube.connection import Connection
from moe_operator.kube.credentials import Credentials
from moe_operator.kube.resources import EXPERT_PLACEMENTS, MOE_DEPLOYMENTS
from moe_operator.process import supervisor
from moe_operator.process import watch as module
from moe_operator.process.watch import Watch
from moe_operator.telemetry.liveness import Liveness


def a_watch(namespaces: tuple[str, ...] = (), connection: Any = None) -> Watch:
    return Watch(connection, namespaces, {MOE_DEPLOYMENTS: lambda kind, live: None}, Liveness())


async def fails(flag: threading.Event) -> None:
    raise RuntimeError("a defect of kopf")


class NoSuchKindError(Exception):
    status = 404


async def finds_no_kind(flag: threading.Event) -> None:
    raise NoSuchKindError("404 page not found")


async def ends(flag: threading.Event) -> None:
    pass


@pytest.mark.parametrize(
    ("end", "what"),
    [
        (fails, "the watch of .* broke down: .*a defect of kopf"),
        (finds_no_kind, r"^the kind MoEDeployment is not installed any more: kubectl apply -f crds/$"),
        (ends, None),
    ],
)
async def test_the_end_of_kopf_is_heard_at_once(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[Any], Any], what: str | None
) -> None:
    async def operator(*, stop_flag: threading.Event, **_: Any) -> None:
        # As kopf: in a thread of its loop's executor, for which the end of the loop waits.
        asyncio.get_running_loop().run_in_executor(None, stop_flag.wait)
        await asyncio.sleep(0.1)
        await end(stop_flag)

    monkeypatch.setattr(kopf, "operator", operator)
    async with asyncio.timeout(5):
        if what is None:
            await a_watch().run()
        else:
            with pytest.raises(OperatorError, match=what):
                await a_watch().run()


async def test_a_watch_whose_thread_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)
    let_go = threading.Event()

    async def operator(**_: Any) -> None:
        let_go.wait(30)

    monkeypatch.setattr(kopf, "operator", operator)
    watching = asyncio.create_task(a_watch().run())
    await asyncio.sleep(0.1)
    started = time.monotonic()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert time.monotonic() - started < 5
    let_go.set()
    await asyncio.to_thread(_join_watches)


async def test_a_callback_of_kopf_that_fails_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def operator(**_: Any) -> None:
        asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0.1)

    def fail() -> None:
        raise AssertionError("no task")

    monkeypatch.setattr(kopf, "operator", operator)
    async with asyncio.timeout(5):
        await a_watch().run()
    (told,) = [record for record in caplog.records if "in the loop of the watch" in record.getMessage()]
    assert "AssertionError('no task')" in told.getMessage()
    assert told.exc_info is None


def _join_watches() -> None:
    for thread in threading.enumerate():
        if thread.name == "watch":
            thread.join(10)


async def test_a_watch_that_hears_nothing_is_overdue_within_a_minute_whatever_kopf_does() -> None:
    assert module.STREAM_SECONDS < module.DEAD_STREAM_SECONDS < module.LIMIT_SECONDS
    assert module.LIMIT_SECONDS + supervisor.GRACE_SECONDS + 2 * supervisor.LOOK_SECONDS < 60
    assert supervisor.UNSEEN_SECONDS + supervisor.GRACE_SECONDS + 2 * supervisor.LOOK_SECONDS < 60


def test_the_names_of_the_signs_tell_no_namespace() -> None:
    assert a_watch().signs() == {"/apis/moe-operator.io/v1alpha1/moedeployments": "watch"}
    both = Watch(None, (), {each: lambda kind, live: None for each in (MOE_DEPLOYMENTS, EXPERT_PLACEMENTS)}, Liveness())
    assert len({*both.signs().values()}) == len(both.signs()) == 2
    of_two = a_watch(("a", "b")).signs()
    assert of_two["/apis/moe-operator.io/v1alpha1/namespaces/b/moedeployments"] == "watch-1"


class Server:
    """Just enough of an API server for kopf to watch MoEDeployments below a path of its own."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.watches = 0
        self.stop = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/proxy")
        if "watch" in request.query:
            return await self._watch(request)
        can = {"verbs": ["list", "watch"], "shortNames": [], "singularName": ""}
        namespaces = {"name": "namespaces", "kind": "Namespace", "namespaced": False, **can}
        ours = {"name": "moedeployments", "kind": "MoEDeployment", "namespaced": True, **can}
        version = {"groupVersion": "moe-operator.io/v1alpha1", "version": "v1alpha1"}
        group = {"name": "moe-operator.io", "preferredVersion": version, "versions": [version]}
        known: dict[str, Any] = {
            "/api": {"versions": ["v1"]},
            "/api/v1": {"resources": [namespaces]},
            "/apis": {"groups": [group]},
            "/apis/moe-operator.io/v1alpha1": {"resources": [ours]},
            "/apis/moe-operator.io/v1alpha1/moedeployments": {"items": [], "metadata": {"resourceVersion": "1"}},
        }
        return web.json_response(known.get(path, {"message": "no"}), status=200 if path in known else 404)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches += 1
        status = self.answers.pop(0) if self.answers else 0
        if status != 200:
            await self.stop.wait()
            return web.Response(status=500)
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(0.3)
        return response


@asynccontextmanager
async def watched(server: Server, folder: Path, liveness: Liveness) -> AsyncIterator[asyncio.Task[None]]:
    """A watch of ``server``, which ends with the block."""
    async with serving(server.handle) as url:
        connection = Connection(Credentials(kubeconfig(folder / "k", f"{url}/proxy")))
        watch = Watch(connection, (), {MOE_DEPLOYMENTS: lambda kind, live: None}, liveness)
        watching = asyncio.create_task(watch.run())
        try:
            yield watching
        finally:
            server.stop.set()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await connection.close()


async def until_watched(server: Server, times: int, watching: asyncio.Task[None]) -> None:
    """Until it was asked for as many streams, or nobody asks any more."""
    async with asyncio.timeout(20):
        while server.watches < times and not watching.done():  # noqa: ASYNC110 # counted by the server's handler
            await asyncio.sleep(0.05)


async def test_each_stream_that_the_api_server_accepts_is_a_sign_of_life(tmp_path: Path) -> None:
    server, signs = Server(200, 200, 200), []

    class Signs(Liveness):
        def beat(self, name: str, doing: str = "") -> None:
            signs.append(name)

    async with watched(server, tmp_path, Signs()) as watching:
        await until_watched(server, 4, watching)
        await asyncio.sleep(0.3)
        assert signs == ["watch"] * 3  # not of the fourth, which got no answer


async def test_a_process_watches_whose_user_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", Mock(side_effect=KeyError("getpwuid(): uid not found: 65532")))
    server = Server(200)
    async with watched(server, tmp_path, Liveness()) as watching:
        await until_watched(server, 1, watching)
        assert server.watches
