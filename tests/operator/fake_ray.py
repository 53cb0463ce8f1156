"""A Ray dashboard and directory that fail on demand: the fake at the protocol edge for the tests of the operator.

It keeps the parts of Serve's contract that the operator leans on: a PUT replaces all declarative applications, a GET
echoes what was submitted, what is removed is DELETING for a while. What a real Ray does is tested with a real one.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

from moe_contract.applications import DIRECTORY, DirectoryConfig
from moe_contract.model import ModelFacts, ModelProblem
from moe_contract.report import (
    ApiReport,
    AttentionReport,
    CandidateReport,
    DirectoryReport,
    EpochFigures,
    Progress,
    ShardReport,
    Traffic,
)
from moe_placement import Placement
from moe_placement.encoding import decode_placement

ANSWERS_AT = -1
"""Of the addresses of ``FakeDirectory``: that of its first attention replica."""
JsonObject = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeRay:
    """Dashboard and Serve proxy behind one port.

    Attributes:
        token: asked for when set.
        status: that each new application takes; ``message`` goes with it.
        report: what every directory answers, given the core application's configuration; None is a 503.
        statistics: of the traffic, as every directory tells them; nothing is a 204.
        nodes: resources of each, as Ray's state API tells them.
        override: takes every request instead, when set; may leave some to ``answer``.
        puts: bodies of the PUTs taken.
        deleting_reads: GETs that still show a removed application.
    """

    url: str = ""
    token: str | None = None
    status: str = "RUNNING"
    message: str = ""
    controller: str = "controller-1"
    options: JsonObject = field(default_factory=lambda: {"proxy_location": "HeadOnly", "target_capacity": None})
    configs: dict[str, JsonObject] = field(default_factory=dict)
    imperative: dict[str, str] = field(default_factory=dict)
    report: Callable[[JsonObject], DirectoryReport | None] = lambda config: None
    statistics: bytes = b""
    nodes: list[dict[str, float]] = field(default_factory=lambda: [{"CPU": 8.0}])
    override: Handler | None = None
    puts: list[JsonObject] = field(default_factory=list)
    gets: int = 0
    deleting_reads: int = 0
    statuses: dict[str, tuple[str, str]] = field(default_factory=dict)
    _deleting: dict[str, int] = field(default_factory=dict)

    @property
    def shop(self) -> JsonObject:
        """An application of somebody else."""
        return {"name": "shop", "route_prefix": "/shop", "import_path": "shop.app:app"}

    def spec(self, shards: int = 2, runtime: JsonObject | None = None, **more: Any) -> JsonObject:
        """Of a MoEDeployment that runs here."""
        return {
            "model": {"source": {"path": "models/tiny"}},
            "experts": {"shards": shards},
            "runtime": {"rayCluster": {"dashboardURL": self.url, "serveURL": self.url, **(runtime or {})}},
            **more,
        }

    def runs(self, namespace: str, name: str = "tiny") -> list[str]:
        """Applications of a MoEDeployment: ``core`` and ``experts-<index>``."""
        prefix = f"moe.{namespace}.{name}."
        return sorted(n.removeprefix(prefix)[8:].lstrip(".") or "core" for n in self.configs if n.startswith(prefix))

    def set_status(self, name: str, status: str, message: str = "") -> None:
        self.statuses[name] = (status, message)

    def drop(self, *names: str) -> None:
        """What a foreign PUT that forgot these would do."""
        for name in names:
            del self.configs[name]

    def state(self) -> JsonObject:
        applications: JsonObject = {}
        for name, config in self.configs.items():
            status, message = self.statuses.get(name, (self.status, self.message))
            applications[name] = self._details(name, status, message, config.get("route_prefix", "/"), config)
        for name, route in self.imperative.items():
            applications[name] = self._details(name, "RUNNING", "", route, None) | {"source": "imperative"}
        for name in list(self._deleting):
            applications.setdefault(name, self._details(name, "DELETING", "", None, None))
            self._deleting[name] -= 1
            if self._deleting[name] <= 0:
                del self._deleting[name]
        return {
            "controller_info": {"actor_id": self.controller},
            **self.options,
            "applications": applications,
            "proxies": {},
        }

    def _details(self, name: str, status: str, message: str, route: str | None, config: Any) -> JsonObject:
        return {
            "name": name,
            "route_prefix": route,
            "status": status,
            "message": message,
            "last_deployed_time_s": time.time(),
            "deployed_app_config": config,
            "source": "declarative",
            "deployments": {},
        }

    def _nodes(self) -> JsonObject:
        found = [{"state": "ALIVE", "resources_total": resources, "labels": {}} for resources in self.nodes]
        return {"result": True, "msg": "", "data": {"result": {"total": len(found), "result": found}}}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        return await (self.override or self.answer)(request)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """What a sound Ray answers, whatever ``override`` is."""
        if request.path.endswith("/internal/report"):
            return self._report(request)
        if request.path.endswith("/internal/statistics"):
            if request.method == "PUT":
                self.statistics = await request.read()
                return web.Response(status=204)
            return web.Response(status=200 if self.statistics else 204, body=self.statistics or None)
        if request.path not in ("/api/serve/applications/", "/api/v0/nodes"):
            return web.Response(status=404, text="404: Not Found")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=403 if "Authorization" in request.headers else 401, text="Unauthorized")
        if request.path == "/api/v0/nodes":
            return web.json_response(self._nodes())
        if request.method == "GET":
            self.gets += 1
            return web.json_response(self.state())
        return self._put(json.loads(await request.text()))

    def _put(self, body: JsonObject) -> web.Response:
        routes = [a.get("route_prefix", "/") for a in body["applications"] if a.get("route_prefix", "/") is not None]
        if len(routes) != len(set(routes)):
            return web.Response(status=400, text="Found duplicate applications for route prefix")
        self.puts.append(body)
        configs = {application["name"]: application for application in body["applications"]}
        if self.deleting_reads:
            self._deleting.update(dict.fromkeys(self.configs.keys() - configs.keys(), self.deleting_reads))
        self.configs = configs
        self.options = {k: body.get(k) for k in self.options}
        return web.Response()

    def _report(self, request: web.Request) -> web.Response:
        prefix = request.path.removesuffix("/internal/report")
        for config in self.configs.values():
            if config.get("route_prefix") == prefix:
                report = self.report(config)
                if report is None:
                    return web.json_response({"error": {"message": "starting"}}, status=503)
                return web.Response(text=report.model_dump_json(), content_type="application/json")
        return web.Response(status=404, text=f"Path '{request.path}' not found.")


@contextlib.asynccontextmanager
async def serving(handler: Handler, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """``handler`` behind a port of loopback, a free one unless given; yields the URL."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, address, port)
    await site.start()
    try:
        yield f"http://{address}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def running_handler(handler: Handler) -> Iterator[str]:
    """``handler`` served from a thread, for tests that drive the operator from outside; yields the URL."""
    up: Future[tuple[str, Callable[[], object]]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        async with serving(handler) as url:
            up.set_result((url, partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set)))
            await stop.wait()

    # It ends what still answers before the loop is closed.
    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    try:
        url, end = up.result(10)
    except TimeoutError:
        raise TimeoutError("the fake did not come up within 10 s") from None
    try:
        yield url
    finally:
        end()
        thread.join(10)


@contextlib.contextmanager
def running(fake: FakeRay) -> Iterator[FakeRay]:
    """``fake`` served from a thread."""
    with running_handler(fake.handle) as fake.url:
        yield fake


def told_directory(core: JsonObject) -> DirectoryConfig:
    """What the directory of a core application was told, given the application's configuration."""
    return DirectoryConfig.model_validate(next(d["user_config"] for d in core["deployments"] if d["name"] == DIRECTORY))


def told_placement(core: JsonObject) -> tuple[int, Placement]:
    """The placement in that, after its revision."""
    config = told_directory(core)
    assert config.placement is not None
    return config.revision, decode_placement(config.placement)


@dataclass
class FakeDirectory:
    """Directories that reach every target at once, for ``FakeRay.report``.

    Attributes:
        problem: reported instead of the facts.
        candidate_problem: of any model that they are asked to look at.
        answers: whether they report at all.
        nodes: of the shards, in turn; hosts: addresses of these, by index.
        lost: shards that do not answer any more.
        epochs: what was counted by routing table.
        running: requests under way.
        more: addresses of the nodes of further attention replicas; apis: those of apis that answer.
        layer_rows, load: what was counted since they started, and by expert (``encoding.encode_counts``).
    """

    facts: ModelFacts
    problem: ModelProblem | None = None
    candidate_problem: ModelProblem | None = None
    answers: bool = True
    nodes: tuple[str, ...] = ("",)
    hosts: dict[int, str] = field(default_factory=dict)
    lost: frozenset[int] = frozenset()
    epochs: tuple[EpochFigures, ...] = ()
    running: int = 2
    more: tuple[str, ...] = ()
    apis: tuple[str, ...] = ()
    layer_rows: int = 0
    load: str | None = None

    def _look_at_candidate(self, target: DirectoryConfig) -> CandidateReport | None:
        if target.candidate is None:
            return None
        bad = self.candidate_problem
        return CandidateReport(args=target.candidate, model=None if bad else self.facts, model_problem=bad)

    def _replica(self, epoch: int, host: str) -> AttentionReport:
        return AttentionReport(
            replica=f"a{host}",
            ready=True,
            epoch=epoch,
            running=self.running,
            waiting=0,
            node=self.nodes[-1],
            host=host,
        )

    def __call__(self, config: JsonObject) -> DirectoryReport | None:
        if not self.answers:
            return None
        target = told_directory(config)
        placement = decode_placement(target.placement) if target.placement else None
        wanted = [len(placement.holdings(ref.index)) if placement else 0 for ref in target.shards]
        attention_at = (self.hosts.get(ANSWERS_AT, ""), *self.more)
        held = [0 if ref.index in self.lost else count for ref, count in zip(target.shards, wanted, strict=True)]
        return DirectoryReport(
            term=target.term,
            revision=target.revision,
            epoch=target.revision,
            model=None if self.problem else self.facts,
            model_problem=self.problem,
            candidate=self._look_at_candidate(target),
            shards=tuple(
                ShardReport(
                    index=ref.index,
                    phase="Lost" if ref.index in self.lost else "Ready",
                    node=self.nodes[ref.index % len(self.nodes)],
                    host=self.hosts.get(ref.index, ""),
                    held=here,
                    wanted=count,
                )
                for ref, here, count in zip(target.shards, held, wanted, strict=True)
            ),
            attention=tuple(self._replica(target.revision, host) for host in attention_at),
            apis=tuple(ApiReport(ready=True, host=host) for host in self.apis),
            progress=Progress(copied=sum(held), total=sum(wanted), settled=held == wanted),
            placement=target.placement,
            traffic=Traffic(epochs=self.epochs, layer_rows=self.layer_rows, load=self.load),
        )
