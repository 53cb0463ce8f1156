"""The Ray that ``moe-serve`` runs on: one of our own that ends with this process, or one that is there already."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_serving.standalone.errors import UsageError

_OBJECT_STORE_BYTES = 100 << 20
"""Only results of control calls go through it: tokens and hidden rows have sockets of their own."""


@dataclass(frozen=True, slots=True)
class RayNode:
    """What is needed of a Ray.

    Attributes:
        dashboard_url: of its REST API.
        token: that it asks for; empty when it asks for none.
        gpus: that it has to hand out.
        logs: where Serve writes the logs of all its processes.
    """

    dashboard_url: str
    token: str
    gpus: int
    logs: Path


@contextmanager
def own_ray() -> Iterator[RayNode]:
    """A new Ray on loopback, behind a random token, that ends with the block or with this process."""
    # Ray makes unix sockets below it, with some 60 bytes of names of its own, of the 107 that a socket's path may have.
    directory = Path(tempfile.mkdtemp(prefix="moe-", dir="/tmp"))
    try:
        hide_odd_paths(directory)
        token_file = directory / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(secrets.token_hex(32))
        # Whoever reaches an open dashboard runs code (CVE-2023-48022). Ray reads these when it is imported.
        os.environ.update(
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN_PATH=str(token_file),
            RAY_USAGE_STATS_ENABLED="0",
            RAY_prestart_worker_first_driver="0",  # a worker per core that nobody asked for would slow the start
            RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS="1",  # a frozen process would hold its clients until it had drained
        )
        with _connected(
            address="local",
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=str(directory),
            _node_ip_address="127.0.0.1",
        ) as node:
            yield node
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def hide_odd_paths(directory: Path) -> None:
    """Let Ray find this Python by a link in ``directory`` where its path has characters that a shell takes apart.

    Ray puts the paths of its Python and of its packages into lines of a shell, unquoted: below ``/home/a b`` no worker
    would start. Call it before Ray is imported.
    """
    if re.fullmatch(r"[\w@%+=,./-]+", sys.prefix):
        return
    link = directory / "venv"
    link.symlink_to(sys.prefix)
    sys.executable = str(link / "bin" / Path(sys.executable).name)
    sys.path[:] = [str(link / Path(entry).relative_to(sys.prefix)) if _is_below(entry) else entry for entry in sys.path]


def _is_below(entry: str) -> bool:
    return Path(entry).is_relative_to(sys.prefix)


@contextmanager
def running_ray(address: str) -> Iterator[RayNode]:
    """A Ray that somebody else runs; its token is expected where Ray's own tools look for it.

    Raises:
        UsageError: nobody answers there, or refuses us.
    """
    with _connected(address=address) as node:
        yield node


@contextmanager
def _connected(**options: Any) -> Iterator[RayNode]:
    import ray  # noqa: PLC0415 takes a second, and reads the environment

    try:
        context = ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"Ray at {options['address']!r}: {error}") from error
    try:
        if not context.dashboard_url:
            raise UsageError(f"Ray at {options['address']!r} runs no dashboard; start it with one")
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
