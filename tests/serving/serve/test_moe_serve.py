"""``moe-serve`` from the start to Ctrl-C, as a user runs it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from openai import AuthenticationError, InternalServerError, OpenAI
from parted import FILES, UNUSED, part
from stub_hub import REPOSITORY, REVISION, StubHub, files_of, running

from moe_serving.checkpoint import Checkpoint
from moe_serving.serve.proxy import HEAD_BYTES
from moe_serving.standalone.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(400)]

READY_S = 180.0


class MoeServe:
    """A running ``moe-serve``; remembers what it prints and every process it started."""

    def __init__(self, arguments: list[str], temporary: Path, ray: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "moe_serving", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.printed = ""
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment | (ray or {}) | {"TMPDIR": str(temporary)},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + READY_S
        while text not in self.printed:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.printed}"
            assert time.monotonic() < end, f"waited {READY_S} s for {text!r} in:\n{self.printed}"
            time.sleep(0.1)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: int) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            for process in [*self.family(), psutil.Process(self.process.pid)]:
                process.kill()
        self.process.wait(10)
        self._reader.join(10)

    def _read(self) -> None:
        for line in self.process.stdout:
            self.printed += line
        self.process.stdout.close()


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory whose name leaves room for Ray's sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="ms"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def hub(tiny: Path, tmp_path: Path) -> Iterator[StubHub]:
    """The tiny model in several files, of which nobody needs one."""
    with running(StubHub(files_of(part(tiny, tmp_path / "parted", unused=True)))) as stub:
        yield stub


def test_from_start_to_end(hub, tiny, tmp_path, short_tmp) -> None:
    """With a model from a hub, of which its processes have what they need from one fetch of each file."""
    prompt = (5, 77, 1234, 9, 300)
    keys = tmp_path / "keys"
    keys.write_text("sk-first\nsk-second\n")
    port = free_ports(1)[0]
    arguments = ["--model", f"hf://{REPOSITORY}@{REVISION}", "--shards", "4", "--copies", "2", "--port", str(port)]
    arguments += ["--dtype", "float32"]
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "MOE_MODEL_CACHE": str(tmp_path / "cache")}
    serving = MoeServe([*arguments, "--api-key-file", str(keys), "--max-context", "200"], short_tmp, environment)
    try:
        serving.wait_for("Ctrl-C ends it.")
        print(serving.printed)
        assert re.search(r"\d+ MoE layers of \d+ experts", serving.printed)
        assert re.search(r"(\d+) of \1 expert copies", serving.printed)
        url = re.search(r"ready: (\S+)", serving.printed)[1]
        assert url == f"http://127.0.0.1:{port}/v1"
        assert f"curl -N {url}/completions" in serving.printed
        with OpenAI(base_url=url, api_key="sk-second", max_retries=0) as client:
            stream = client.completions.create(model="tiny", prompt="The", max_tokens=8, stream=True)
            assert "".join(chunk.choices[0].text for chunk in stream)
            with pytest.raises(AuthenticationError):
                client.with_options(api_key="none").models.list()
            answer = client.completions.create(
                model="tiny", prompt=list(prompt), max_tokens=16, temperature=0, extra_body={"return_token_ids": True}
            )
        # Imports torch, which takes seconds.
        from reference import reference_greedy  # noqa: PLC0415

        got = tuple(answer.choices[0].token_ids)
        assert got
        assert got == reference_greedy(tiny, [prompt], 16)[0][: len(got)]
        assert set(hub.gets.values()) == {1}
        assert {*FILES, "config.json", "tokenizer.json"} <= hub.gets.keys()
        assert UNUSED not in hub.gets
        family = serving.family()
        assert len(family) > 6
        assert_within_bounds(family, port)
        assert serving.end(signal.SIGINT) == 0
        assert_nothing_left(family)
        with socket.create_server(("127.0.0.1", port)):
            pass
    finally:
        serving.kill()


def end_by_sigterm(serving: MoeServe) -> int:
    return serving.end(signal.SIGTERM)


def end_by_sigkill(serving: MoeServe) -> int:
    return serving.end(signal.SIGKILL)


def end_by_the_death_of_its_raylet(serving: MoeServe) -> int:
    (raylet,) = [process for process in serving.family() if process.name() == "raylet"]
    raylet.kill()
    return serving.process.wait(30)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (end_by_sigterm, 0),
        pytest.param(end_by_sigkill, -signal.SIGKILL, marks=pytest.mark.long),
        pytest.param(end_by_the_death_of_its_raylet, 1, marks=pytest.mark.long),
    ],
)
def test_however_it_ends_nothing_of_it_is_left(tiny, short_tmp, end, code) -> None:
    """In the middle of the start, when most is under way."""
    serving = MoeServe(["--model", str(tiny), "--port", str(free_ports(1)[0])], short_tmp)
    try:
        serving.wait_for("starting api and directory")
        family = serving.family()
        (logs,) = re.findall(r"logs are in (\S+)", serving.printed)
        assert Path(logs).exists()
        assert end(serving) == code
        assert_nothing_left(family)
        assert not Path(logs).exists(), "Ray's files are left behind"
    finally:
        serving.kill()


@pytest.mark.long
def test_on_a_ray_that_others_use_too(tiny, ray_cluster, plane, short_tmp) -> None:
    theirs = plane.pids()
    arguments = ["--model", str(tiny), "--ray", ray_cluster.address, "--route-prefix"]
    taken = MoeServe([*arguments, f"/{plane.name}"], short_tmp, ray_cluster.environment)
    serving = MoeServe([*arguments, "/own"], short_tmp, ray_cluster.environment)
    try:
        assert taken.process.wait(120) == 2
        serving.wait_for("Ctrl-C ends it.")
        url = re.search(r"ready: (\S+)", serving.printed)[1]
        assert url == f"{ray_cluster.serve_url}/own/v1"
        with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            assert client.completions.create(model="tiny", prompt="The", max_tokens=4).choices[0].text
        assert serving.end(signal.SIGINT) == 0
        assert plane.pids() == theirs
        assert plane.get("/healthz")[0] == 200
    finally:
        taken.kill()
        serving.kill()
    assert f"--route-prefix /{plane.name}: application {plane.name} is there; choose another" in taken.printed


def test_verify_notices_a_single_wrong_bit(tiny, ray_cluster, tmp_path, short_tmp) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    arguments = ["--model", str(model), "--shards", "1", "--ray", ray_cluster.address, "--route-prefix", "/verified"]
    serving = MoeServe([*arguments, "--verify"], short_tmp, ray_cluster.environment)
    try:
        serving.wait_for("Ctrl-C ends it.")
        with OpenAI(base_url=f"{ray_cluster.serve_url}/verified/v1", api_key="none", max_retries=0) as client:
            assert client.completions.create(model="tiny", prompt=[5], max_tokens=1).usage.completion_tokens == 1
            flip_a_bit_of_each_expert(model)  # the shard has loaded them; attention reads what it checks only when used
            with pytest.raises(InternalServerError, match="with other bits than the checkpoint's"):
                client.completions.create(model="tiny", prompt=list(range(50, 150)), max_tokens=1)
    finally:
        serving.end(signal.SIGINT)
        serving.kill()


def flip_a_bit_of_each_expert(model: Path) -> None:
    """The lowest one of the first weight of each ``down``, in place."""
    checkpoint = Checkpoint.open(model)
    for layer in range(len(checkpoint.config.moe_layers)):
        for expert in range(checkpoint.config.experts):
            entry = checkpoint.tensors[checkpoint.expert_tensors(layer, expert).down.name]
            with entry.file.open("r+b") as file:
                file.seek(entry.begin)
                (byte,) = file.read(1)
                file.seek(entry.begin)
                file.write(bytes([byte ^ 1]))


def assert_within_bounds(family: list[psutil.Process], port: int) -> None:
    """What it promises of the processes that it starts, and of Serve's proxy."""
    assert {process.nice() for process in family} == {psutil.Process().nice()}
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in family
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        # Too large by a little at its very end: what a server has not read when it closes would reset the connection.
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nx: " + b"y" * HEAD_BYTES)
        answer = client.recv(100)
    assert answer.startswith(b"HTTP/1.1 431 "), "a head without an end"


def assert_nothing_left(family: list[psutil.Process]) -> None:
    alive = psutil.wait_procs(family, timeout=20)[1]
    assert not alive
