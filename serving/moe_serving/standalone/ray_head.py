"""How a Ray of our own is started: all of it on loopback, behind a token.

Used by ``moe-serve``, by the demo and by the tests. Ray takes most of this from the environment; what others should set
who start a Ray for us stands in docs/operations.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

OBJECT_STORE_BYTES = 100 << 20
"""Only results of control calls go through it: tokens and hidden rows have sockets of their own."""
GRACE_S = 3.0
"""Before it ends itself Ray kills its children; the guard kills what is left after this."""


@dataclass(frozen=True, slots=True)
class HeadPorts:
    """Where it listens; all others are the kernel's choice."""

    gcs: int
    dashboard: int
    client: int


def driver_environment(token_file: Path) -> dict[str, str]:
    """What node and drivers need alike."""
    return {
        # Whoever reaches an open dashboard runs code (CVE-2023-48022).
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        # For Ray "0" means: this machine's address is loopback, on any system; a driver must agree with the node.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def node_environment(token_file: Path) -> dict[str, str]:
    """What the node needs; its workers inherit it, and with them everything of ours and of Serve's."""
    return driver_environment(token_file) | {
        # A worker per core that nobody asked for would slow the start.
        "RAY_prestart_worker_first_driver": "0",
        # By default 15: all that serves requests would starve beside anything else on the machine.
        "RAY_worker_niceness": "0",
        # A process that failed its health checks is asked to drain, for as long as draining may take, unless told not
        # to: a frozen one holds its clients for so long.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # By default each of Serve's processes wakes ten times a second to export metrics.
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "moe_serving.serve.proxy:set_up",
    }


def head_command(directory: Path, ports: HeadPorts, *options: str) -> list[str]:
    """The command that runs the first node until it ends, with its files below ``directory``. That must have a short
    path: Ray makes unix sockets below it, with some 60 bytes of names of its own, of the 107 that their paths may have.
    """
    return [
        str(python_below(directory)),
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        # 0: the kernel's choice, instead of fixed ports that two Rays on one machine would share.
        "--dashboard-agent-grpc-port=0",
        "--dashboard-agent-listen-port=0",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--include-log-monitor=false",
        "--disable-usage-stats",
        "--head",
        f"--port={ports.gcs}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={ports.dashboard}",
        f"--ray-client-server-port={ports.client}",
        f"--temp-dir={directory / 'ray'}",
        *options,
    ]


def python_below(directory: Path) -> Path:
    """The Python of all nodes whose files are below ``directory``: this one, by a link there.

    Ray puts the paths of its Python and of its packages into lines of a shell, unquoted: where they have a space in
    them no worker would start. Python takes the link for its own place, so Ray never sees it.
    """
    environment = directory / "venv"
    if not environment.is_symlink():
        environment.symlink_to(sys.prefix)
    return environment / "bin" / "python"
