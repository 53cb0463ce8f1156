"""Starts a command below its own ``guard``: nothing of it outlives this process, however this process ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_serving.standalone import guard


def start_guarded(
    command: Sequence[str],
    log: Path,
    *,
    grace: float,
    remove: Path | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> subprocess.Popen[bytes]:
    """The guard's process: closing its standard input stops the command and all that it started.

    Args:
        log: its output is appended there.
        grace: seconds between SIGTERM and SIGKILL when it is stopped.
        remove: a folder that goes when it is stopped, or when this process dies.
        directory: where it works.
    """
    shim = [sys.executable, "-IS", guard.__file__, str(os.getpid()), str(grace), str(remove or "")]
    with open(log, "ab") as output:
        return subprocess.Popen(
            [*shim, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            start_new_session=True,
        )
