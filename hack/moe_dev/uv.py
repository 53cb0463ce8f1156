"""The pinned uv, installed by pip into the cache, run with pip's settings. Standard library only."""

import ast
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from moe_dev.locks import exclusive
from moe_dev.paths import CLONE, cache_root
from moe_dev.progress import step

UV_LOCK = CLONE / "hack" / "uv.lock"

# uv does not read pip's configuration; a machine set up for pip must do for uv as well.
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


class SetupError(Exception):
    """A step of the set-up failed; the message ends with the output of what failed."""


def uv(*arguments: str) -> None:
    """Run uv; SetupError with its words when it fails."""
    _run(str(_program()), *arguments)


def _program() -> Path:
    key = hashlib.sha256(UV_LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    target = cache_root() / "uv" / key
    program = target / "bin" / "uv"
    if not program.exists():
        with exclusive(target.with_suffix(".lock"), "uv"):
            if not program.exists():
                with step("installing uv"):
                    _run(sys.executable, "-m", "venv", "--clear", str(target))
                    pip = [str(target / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
                    _run(*pip, "--require-hashes", "--requirement", str(UV_LOCK))
    return program


def environment() -> dict[str, str]:
    """This process's environment and, where it does not say otherwise, pip's index, certificates and proxy."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    found: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        setting = PIP_TO_UV.get(name.rpartition(".")[2])
        if setting and value:
            found[setting] = str(ast.literal_eval(value))
    return {**found, **os.environ}


def _run(*command: str) -> None:
    with tempfile.TemporaryFile("w+") as output:
        ended = subprocess.run(command, env=environment(), stdout=output, stderr=output, check=False)
        if ended.returncode != 0:
            output.seek(0)
            raise SetupError(f"{' '.join(command)} failed with status {ended.returncode}:\n{output.read()[-4000:]}")
