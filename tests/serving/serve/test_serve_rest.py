"""``moe-serve`` beside others on one Ray: what it puts, and what it leaves alone."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from moe_contract.applications import CORE_IMPORT_PATH, SHARD_IMPORT_PATH
from moe_contract.serve.merge import Change, Conflict
from moe_serving.standalone.errors import StandaloneError
from moe_serving.standalone.serve_rest import ServeRest

CORE = {"name": "moe-serve.own", "route_prefix": "/own", "import_path": CORE_IMPORT_PATH}
SHARD = {"name": "moe-serve.own.experts-0", "route_prefix": None, "import_path": SHARD_IMPORT_PATH}
START = {"http_options": {"host": "127.0.0.1", "port": 8000}, "proxy_location": "HeadOnly"}


class Dashboard(http.server.ThreadingHTTPServer):
    """Serve's REST API as ``moe-serve`` meets it.

    Attributes:
        answer: to a GET.
        put: bodies of the PUTs that came.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Any = {"controller_info": {}, "applications": {}}
        self.put: list[Any] = []

    def run(self, *configs: Any, source: str = "declarative") -> None:
        """Serve runs, and these applications beside what ran before."""
        self.answer |= {"controller_info": {"actor_id": "c"}, "http_options": {"host": "0.0.0.0", "port": 80}}
        for config in configs:
            fields = {"status": "RUNNING", "deployed_app_config": config, "source": source}
            self.answer["applications"][config["name"]] = fields | {"route_prefix": config["route_prefix"]}


class Handler(http.server.BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        body = json.dumps(self.server.answer).encode() if isinstance(self.server.answer, dict) else self.server.answer
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.server.put.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    with Dashboard() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def rest(dashboard: Dashboard) -> ServeRest:
    return ServeRest(f"http://127.0.0.1:{dashboard.server_port}", "")


def change(*applications: Any) -> Change:
    return Change(CORE["name"], applications, START["http_options"], START["proxy_location"])


def test_where_no_serve_runs_it_is_started(dashboard: Dashboard, rest: ServeRest) -> None:
    assert rest.apply(change(CORE, SHARD)) is None
    assert dashboard.put == [START | {"applications": [CORE, SHARD]}]


def test_others_are_put_back_as_they_were_submitted(dashboard: Dashboard, rest: ServeRest) -> None:
    theirs = {"name": "shop", "route_prefix": "/shop", "import_path": "shop:app", "args": {"n": 1}}
    dashboard.run(theirs)
    dashboard.run({"name": "notebook", "route_prefix": "/nb", "import_path": "nb:app"}, source="imperative")
    dashboard.run({**SHARD, "name": "moe-serve.own.experts-7"})
    assert rest.apply(change(CORE, SHARD)) is None
    assert dashboard.put == [{"http_options": dashboard.answer["http_options"], "applications": [theirs, CORE, SHARD]}]
    dashboard.run(CORE, SHARD)
    assert rest.apply(change()) is None
    assert dashboard.put[-1]["applications"] == [theirs]


@pytest.mark.parametrize(
    ("theirs", "conflict"),
    [
        ({"name": "shop", "route_prefix": "/own", "import_path": "shop:app"}, Conflict("/own", "shop")),
        ({"name": "shop", "route_prefix": "/own/v1", "import_path": "shop:app"}, Conflict("/own", "shop", "/own/v1")),
        ({"name": CORE["name"], "route_prefix": "/x", "import_path": "shop:app"}, Conflict(None, CORE["name"])),
    ],
    ids=str,
)
def test_nothing_is_taken_from_others(dashboard: Dashboard, rest: ServeRest, theirs: Any, conflict: Conflict) -> None:
    dashboard.run(theirs)
    assert rest.apply(change(CORE, SHARD)) == conflict
    assert dashboard.put == []


def test_an_answer_that_is_not_serves(dashboard: Dashboard, rest: ServeRest) -> None:
    dashboard.answer = b"<html>"
    with pytest.raises(StandaloneError, match=r"what Ray's dashboard at \S+ answers is no use: an HTML page"):
        rest.apply(change(CORE))
