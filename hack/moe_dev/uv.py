"""The pinned uv, installed by pip into the cache, run with pip's settings. Standard library only."""

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from moe_dev import commands
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


def uv(*arguments: str) -> None:
    """Run uv; SetupError with its words when it fails."""
    commands.run([str(_program()), *arguments], environment=environment())


def _program() -> Path:
    key = hashlib.sha256(UV_LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    target = cache_root() / "uv" / key
    program = target / "bin" / "uv"
    if not program.exists():
        with exclusive(target.with_suffix(".lock"), "uv"):
            if not program.exists():
                with step("installing uv"):
                    settings = environment()
                    commands.run([sys.executable, "-m", "venv", "--clear", str(target)], environment=settings)
                    pip = [str(target / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
                    locked = ["--require-hashes", "--requirement", str(UV_LOCK)]
                    commands.run([*pip, *locked], environment=settings)
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
