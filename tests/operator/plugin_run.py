"""``kubectl moe`` as kubectl runs it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from moe_dev.kube import Kubectl

SECONDS = 120


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


def moe(user: Kubectl, *arguments: str) -> Ended:
    """``kubectl moe ARGUMENTS`` as that user."""
    path = os.pathsep.join([str(Path(sys.executable).parent), str(user.binary.parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(user.binary), "moe", *arguments],
        env={**os.environ, "PATH": path, "KUBECONFIG": str(user.kubeconfig)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)
