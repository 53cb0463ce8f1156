"""Credentials that end: whoever gives them is asked again, before or when they are refused, and not more than that."""

import asyncio
import base64
import json
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from clock import Clock
from fake_ray import serving
from kubeconfigs import kubeconfig
from kubernetes.aio.config import incluster_config

from moe_dev.pki import Authority
from moe_operator.errors import LeadershipLostError
from moe_operator.kube import credentials as module
from moe_operator.kube.client import KubeClient
from moe_operator.kube.connection import Connection
from moe_operator.kube.credentials import Credentials
from moe_operator.kube.errors import CredentialsError, UnauthorizedError
from moe_operator.kube.resources import SECRETS


class Server:
    """An API server that knows one token."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").partition(" ")[2]
        self.asked.append(f"{request.method} {given}")
        if given != self.token:
            return web.json_response({"kind": "Status", "message": "Unauthorized"}, status=401)
        return web.json_response({"metadata": {"name": "s", "namespace": "n"}})


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server("first")
    async with serving(server.handle) as server.url:  # type: ignore[attr-defined]
        yield server


@asynccontextmanager
async def connected(kubeconfig: Path, clock: Clock) -> AsyncIterator[KubeClient]:
    connection = Connection(Credentials(kubeconfig, clock), clock)
    await connection.open()
    async with KubeClient(connection) as client:
        yield client


class Plugin:
    """An exec plugin that gives what the test says, and counts."""

    def __init__(self, folder: Path) -> None:
        self._answer, self._runs = folder / "answer.json", folder / "runs"
        self._script = folder / "plugin.sh"
        self._script.write_text(f"#!/bin/sh\necho run >> {self._runs}\ncat {self._answer}\n")
        self._script.chmod(self._script.stat().st_mode | stat.S_IXUSR)

    def give(self, token: str, lives: float | None = 3600.0) -> None:
        status = {"token": token}
        if lives is not None:
            end = datetime.now(UTC) + timedelta(seconds=lives)
            status["expirationTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        version = "client.authentication.k8s.io/v1"
        self._answer.write_text(json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status}))

    def fail(self) -> None:
        self._answer.unlink()

    @property
    def user(self) -> dict[str, Any]:
        version = "client.authentication.k8s.io/v1"
        return {"exec": {"apiVersion": version, "command": str(self._script), "interactiveMode": "Never"}}

    @property
    def runs(self) -> int:
        return self._runs.read_text().count("run")


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    plugin = Plugin(tmp_path)
    plugin.give("first")
    return plugin


async def read(client: KubeClient) -> None:
    await client.get(SECRETS, "n", "s")


async def until(what: str, check: Callable[[], bool]) -> None:
    for _ in range(500):
        if check():
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"waited 5 s for {what}")


async def test_a_plugin_is_asked_again_when_its_token_is_refused(
    server: Server, plugin: Plugin, clock: Clock, tmp_path: Path
) -> None:
    async with connected(kubeconfig(tmp_path / "k", server.url, plugin.user), clock) as client:
        for _ in range(3):
            await read(client)
        assert plugin.runs == 1
        plugin.give("second")
        server.token = "second"
        clock.now += 10
        server.asked.clear()
        await read(client)
        assert server.asked == ["GET first", "GET second"]
        assert plugin.runs == 2
        await read(client)
        assert server.asked[2:] == ["GET second"]
        assert client.connection.refused_seconds() == 0


async def test_a_plugin_is_asked_again_before_its_token_ends_and_nobody_waits(
    server: Server, plugin: Plugin, clock: Clock, tmp_path: Path
) -> None:
    async with connected(kubeconfig(tmp_path / "k", server.url, plugin.user), clock) as client:
        clock.now += 0.7 * 3600
        await read(client)
        assert plugin.runs == 1
        plugin.give("second")
        clock.now += 0.2 * 3600
        await read(client)  # still with the first, which is good for six more minutes
        await until("the plugin to have been asked", lambda: plugin.runs == 2)
        server.token = "second"
        await asyncio.sleep(0.2)
        server.asked.clear()
        await read(client)
        assert server.asked == ["GET second"]


async def test_a_plugin_that_gives_what_has_ended_is_not_asked_all_the_time(
    server: Server, plugin: Plugin, clock: Clock, tmp_path: Path
) -> None:
    plugin.give("first", lives=-60.0)
    async with connected(kubeconfig(tmp_path / "k", server.url, plugin.user), clock) as client:
        for _ in range(20):
            await read(client)
            clock.now += 1.0
        await asyncio.sleep(0.1)
        assert plugin.runs <= 3


async def test_refused_for_good(server: Server, plugin: Plugin, clock: Clock, tmp_path: Path) -> None:
    async with connected(kubeconfig(tmp_path / "k", server.url, plugin.user), clock) as client:
        server.token = "nobody's"
        for _ in range(30):
            with pytest.raises(UnauthorizedError, match="Unauthorized"):
                await read(client)
            clock.now += 1.0
        assert client.connection.refused_seconds() == 30
        assert plugin.runs <= 1 + 30 / module.RETRY_SECONDS
        assert len(server.asked) <= 2 * 30


async def test_a_plugin_that_fails_is_told_and_what_it_gave_before_is_used(
    server: Server, plugin: Plugin, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = kubeconfig(tmp_path / "k", server.url, plugin.user)
    async with connected(path, clock) as client:
        plugin.fail()
        clock.now += 3600
        await read(client)
        await until("the failure", lambda: "credentials were not renewed" in caplog.text)
        await read(client)
        server.token = "second"
        clock.now += 10
        with pytest.raises(CredentialsError, match=r"exec plugin '.*plugin.sh' of the kubeconfig gave no credentials"):
            await read(client)
        assert client.connection.refused_seconds() == 0
        clock.now += 7
        assert client.connection.refused_seconds() == 7
    with pytest.raises(CredentialsError, match="gave no credentials"):
        await KubeClient.connect(path)


async def test_a_plugin_that_hangs_holds_up_nothing_for_long(
    server: Server, plugin: Plugin, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOAD_SECONDS", 0.2)
    script = tmp_path / "hangs.sh"
    script.write_text("#!/bin/sh\nexec sleep 3\n")
    script.chmod(0o700)
    plugin.user["exec"]["command"] = str(script)
    user = {"exec": {**plugin.user["exec"], "command": str(script)}}
    with pytest.raises(CredentialsError, match="no credentials for Kubernetes within"):
        await KubeClient.connect(kubeconfig(tmp_path / "k", server.url, user))
    await asyncio.sleep(3)  # its process ends by itself: nothing may be left to complain later


@pytest.mark.parametrize("inside", [True, False], ids=["token in the kubeconfig", "tokenFile"])
async def test_a_token_on_disk_is_read_again(server: Server, clock: Clock, tmp_path: Path, inside: bool) -> None:
    def write(token: str) -> Path:
        (tmp_path / "token").write_text(token)
        user = {"token": token} if inside else {"tokenFile": str(tmp_path / "token")}
        return kubeconfig(tmp_path / "k", server.url, user)

    async with connected(write("first"), clock) as client:
        await read(client)
        write("second")
        server.token = "second"
        clock.now += module.RETRY_SECONDS
        await read(client)  # as soon as it is refused
        write("third")
        clock.now += module.REREAD_SECONDS
        await read(client)  # and by the minute, while it still holds
        server.token = "third"
        await until("the new token", lambda: server.asked.append("") is None)
        await asyncio.sleep(0.1)
        server.asked.clear()
        await read(client)
        assert server.asked == ["GET third"]


def id_token(name: str, lives: float) -> str:
    """As an issuer's, unsigned."""
    claims = json.dumps({"sub": name, "exp": int(time.time() + lives)}).encode()
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", claims, b"signature"))


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # in the library that refreshes
async def test_openid_connect_goes_on_with_the_refresh_token_that_was_given_last(
    server: Server, clock: Clock, tmp_path: Path
) -> None:
    """One that may be used once: what stands in the kubeconfig is good for the first refresh only."""
    good, given = ["from-the-file"], []

    async def issuer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/.well-known/openid-configuration"):
            return web.json_response({"token_endpoint": f"{url}/token"})
        if (await request.post())["refresh_token"] != good[-1]:
            return web.Response(status=400)
        given.append(id_token(f"number {len(given)}", lives=3600.0 if len(given) else 60.0))
        good.append(f"refresh-{len(given)}")
        return web.json_response({"id_token": given[-1], "refresh_token": good[-1]})

    async with serving(issuer) as url:
        known = {"idp-issuer-url": url, "client-id": "c", "client-secret": "s"}
        tokens = {"id-token": id_token("old", lives=-60.0), "refresh-token": good[0]}
        user = {"auth-provider": {"name": "oidc", "config": known | tokens}}
        async with connected(kubeconfig(tmp_path / "k", server.url, user), clock) as client:
            server.token = given[0]
            await read(client)
            clock.now += module.REREAD_SECONDS
            await read(client)
            await until("another token", lambda: len(given) == 2)
            await asyncio.sleep(0.1)
            server.token = given[1]
            server.asked.clear()
            await read(client)
            assert server.asked == [f"GET {given[1]}"]


async def test_the_token_of_a_pod_is_read_again(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority.certificate))
    credentials = Credentials(None, clock)
    assert (await credentials.current()).authorization == "bearer first"
    token.write_text("second")
    clock.now += module.REREAD_SECONDS
    await credentials.current()
    await asyncio.sleep(0.05)
    assert (await credentials.current()).authorization == "bearer second"
    token.write_text("third")
    clock.now += module.RETRY_SECONDS
    assert (await credentials.renewed(await credentials.current())).authorization == "bearer third"
    await credentials.close()


async def test_a_write_is_not_sent_again_by_who_may_not_write_any_more(
    server: Server, plugin: Plugin, clock: Clock, tmp_path: Path
) -> None:
    checks: list[float] = []

    def fence() -> None:
        checks.append(clock.now)
        if len(checks) > 1:
            raise LeadershipLostError("the Lease has run out meanwhile")

    async with connected(kubeconfig(tmp_path / "k", server.url, plugin.user), clock) as client:
        plugin.give("second")
        server.token = "second"
        clock.now += 10
        with pytest.raises(LeadershipLostError):
            await client.fenced(fence).create(SECRETS, {"metadata": {"namespace": "n", "name": "s"}})
        assert server.asked == ["POST first"]


async def test_certificates_that_are_rotated_are_used_with_new_connections(clock: Clock, tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    def write(user: str) -> Path:
        pair = authority.user(user, [])
        data = {"client-certificate-data": pair.certificate, "client-key-data": pair.key}
        encoded = {name: base64.b64encode(file.read_bytes()).decode() for name, file in data.items()}
        return kubeconfig(tmp_path / "k", "https://127.0.0.1:1", encoded)

    connection = Connection(Credentials(write("a"), clock), clock)
    first = await connection.endpoint(None)
    clock.now += module.RETRY_SECONDS
    same = await connection.endpoint(first.access)
    assert same.ssl is first.ssl  # nothing changed, so no connection need be made anew
    write("b")
    clock.now += module.RETRY_SECONDS
    other = await connection.endpoint(same.access)
    assert other.ssl is not first.ssl
    files = [Path(e.access.configuration.key_file) for e in (first, other)]
    assert len({file.read_bytes() for file in files}) == 2
    assert {stat.S_IMODE(file.parent.stat().st_mode) for file in files} == {0o700}
    await connection.close()


FORGETS = """
import asyncio, sys
from pathlib import Path
from moe_operator.kube.credentials import Credentials
from moe_operator.process.exits import ExitCode, leave_at_once

async def main():
    access = await Credentials(Path(sys.argv[1])).current()
    key = Path(access.configuration.key_file)
    print(key.exists(), key, flush=True)
    END

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["leave_at_once(ExitCode.LEADERSHIP_LOST)", "sys.exit(4)"])
def test_private_keys_do_not_stay_on_the_disk(tmp_path: Path, end: str) -> None:
    pair = Authority(tmp_path).user("a", [])
    data = {"client-certificate-data": pair.certificate, "client-key-data": pair.key}
    user = {name: base64.b64encode(file.read_bytes()).decode() for name, file in data.items()}
    path = kubeconfig(tmp_path / "k", "https://127.0.0.1:1", user)
    command = [sys.executable, "-c", FORGETS.replace("END", end), str(path)]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False, text=True)
    existed, _, file = ended.stdout.strip().partition(" ")
    assert (ended.returncode, existed) == (4, "True"), ended.stderr
    assert not Path(file).exists()
