"""The Ray that ``moe-serve`` runs on: one of our own that ends with this process, or one that is there already."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moe_serving.standalone.errors import StandaloneError, UsageError
from moe_serving.standalone.guard import KILL_SECONDS
from moe_serving.standalone.guarded import start_guarded
from moe_serving.standalone.ports import free_ports
from moe_serving.standalone.ray_head import GRACE_S, HeadPorts, head_command, node_environment
from moe_serving.standalone.serve_rest import ServeRest

READY_S = 120.0
_PERIOD_S = 0.1
_LOG_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class RayNode:
    """What is needed of a Ray.

    Attributes:
        dashboard_url: of its REST API.
        token: that it asks for; empty when it asks for none.
        gpus: that it has to hand out.
        logs: where Serve writes the logs of all its processes.
        process: that it ends with; None where it is somebody else's.
    """

    dashboard_url: str
    token: str
    gpus: int
    logs: Path
    process: subprocess.Popen[bytes] | None = None

    def stay(self) -> None:
        """Return never.

        Raises:
            StandaloneError: our own Ray has ended.
        """
        while self.process is None:
            signal.pause()
        raise StandaloneError(f"Ray has ended with exit code {self.process.wait()}; all that it ran has ended with it")


@contextmanager
def own_ray() -> Iterator[RayNode]:
    """A new Ray on loopback, behind a random token, that ends with the block or with this process.

    Raises:
        StandaloneError: it does not start.
    """
    directory = Path(tempfile.mkdtemp(prefix="moe-", dir="/tmp"))  # a short path, see ``head_command``
    try:
        token, token_file = secrets.token_hex(32), directory / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        gcs, dashboard, client = free_ports(3)
        environment = os.environ | node_environment(token_file)
        environment.pop("RAY_ADDRESS", None)  # is for drivers: a node that reads it would join that cluster
        command, log = head_command(directory, HeadPorts(gcs, dashboard, client)), directory / "ray.log"
        process = start_guarded(command, log, grace=GRACE_S, remove=directory, environment=environment)
        try:
            rest = ServeRest(f"http://127.0.0.1:{dashboard}", token)
            nodes = _wait_for_nodes(rest, process, log)
            gpus = int(sum(node.get("GPU", 0) for node in nodes))
            logs = directory / "ray" / "session_latest" / "logs" / "serve"
            yield RayNode(rest.dashboard_url, token, gpus, logs, process)
        finally:
            _stop(process)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for_nodes(rest: ServeRest, process: subprocess.Popen[bytes], log: Path) -> list[dict[str, float]]:
    """What its nodes have to hand out, once there are any and Serve can be told what to run."""
    end, missing = time.monotonic() + READY_S, ""
    while process.poll() is None and time.monotonic() < end:
        try:
            rest.status()
            if nodes := rest.resources():
                return nodes
        except StandaloneError as error:
            missing = str(error)
        time.sleep(_PERIOD_S)
    said = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
    raise StandaloneError(f"Ray does not start: {missing}; the end of its output:\n{said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.wait(GRACE_S + KILL_SECONDS + 5.0)


@contextmanager
def running_ray(address: str) -> Iterator[RayNode]:
    """A Ray that somebody else runs; its token is expected where Ray's own tools look for it.

    Raises:
        UsageError: nobody answers there, or refuses us.
    """
    import ray  # noqa: PLC0415 takes a second, and reads the environment

    try:
        context = ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"Ray at {address!r}: {error}") from error
    try:
        if not context.dashboard_url:
            raise UsageError(f"Ray at {address!r} runs no dashboard; start it with one")
        yield RayNode(
            dashboard_url=f"http://{context.dashboard_url}",
            token=_token(),
            gpus=int(ray.cluster_resources().get("GPU", 0)),  # type: ignore[no-untyped-call]  # Ray's own lack
            logs=Path(context.address_info["session_dir"]) / "logs" / "serve",  # type: ignore[attr-defined]  # RayContext
        )
    finally:
        ray.shutdown()


def _token() -> str:
    """As Ray finds it: in the environment, in the file named there, or in its usual place."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else ""
