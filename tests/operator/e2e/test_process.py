"""The operator as a process: what it says and how it ends where it cannot begin."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from fake_ray import running_handler
from kubeconfigs import kubeconfig

pytestmark = [pytest.mark.e2e, pytest.mark.waits]


class Operator:
    """``moe-operator run`` with its log."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        with log.open("wb") as output:
            command = [sys.executable, "-m", "moe_operator", "run", "--bind=127.0.0.1:0", *arguments]
            self.process = subprocess.Popen(command, stdout=output, stderr=output)

    def wait_for(self, pattern: str, timeout: float = 90.0) -> None:
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.log.read_text()):
            assert time.monotonic() < deadline, f"waited {timeout} s for {pattern!r} in:\n{self.log.read_text()}"
            time.sleep(0.1)

    def exit_code(self, timeout: float = 90.0) -> int:
        return self.process.wait(timeout)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type]:
    started: list[Operator] = []

    def begin(*arguments: str) -> Operator:
        started.append(Operator(tmp_path / f"log-{len(started)}", *arguments))
        return started[-1]

    yield begin
    for operator in started:
        operator.process.kill()
        operator.process.wait(10)


def test_no_kubeconfig(start, tmp_path: Path) -> None:
    operator = start(f"--kubeconfig={tmp_path / 'none'}")
    assert operator.exit_code() == 3
    operator.wait_for("no access to Kubernetes: .*set KUBECONFIG")


def test_it_waits_for_the_kind_and_says_so_and_stops_when_asked(start, tmp_path: Path) -> None:
    async def nothing_here(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "status": "Failure", "code": 404}, status=404)

    with running_handler(nothing_here) as server:
        operator = start(f"--kubeconfig={kubeconfig(tmp_path / 'config', server)}", "--log-format=json")
        operator.wait_for(r"MoEDeployment is not installed: kubectl apply -f crds/")
        records = [json.loads(line) for line in operator.log.read_text().splitlines()]
        assert {"time", "level", "logger", "moeDeployment", "message"} <= records[0].keys()
        operator.process.send_signal(signal.SIGTERM)
        assert operator.exit_code() == 0


def test_an_api_server_that_is_down_is_waited_for(start, tmp_path: Path, unused_tcp_port: int) -> None:
    operator = start(f"--kubeconfig={kubeconfig(tmp_path / 'config', f'http://127.0.0.1:{unused_tcp_port}')}")
    operator.wait_for("waiting for the API server: ")
    operator.process.send_signal(signal.SIGINT)
    assert operator.exit_code() == 0


def test_a_port_that_is_taken(start, tmp_path: Path) -> None:
    async def nothing(request: web.Request) -> web.StreamResponse:
        return web.Response()

    with running_handler(nothing) as taken:
        config = kubeconfig(tmp_path / "config", taken)
        operator = start(f"--kubeconfig={config}", f"--bind={taken.removeprefix('http://')}")
        assert operator.exit_code() == 3
        operator.wait_for("address already in use")
