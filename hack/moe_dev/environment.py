"""The virtual environment: made once per lock file in the cache, then linked into each clone. Standard library only.

Linking a finished environment takes seconds where making one takes a minute: its bytecode is compiled already. Hard
links, so that removing or upgrading a package in one clone leaves the others alone.
"""

import hashlib
import json
import os
import shutil
import sys
import tomllib
from pathlib import Path

from moe_dev.commands import SetupError
from moe_dev.locks import exclusive
from moe_dev.paths import CLONE, cache_root
from moe_dev.progress import step
from moe_dev.uv import uv

LOCK = CLONE / "requirements.lock"
OPERATOR_LOCK = CLONE / "requirements-operator.lock"
ENVIRONMENT = CLONE / ".venv"
# A change of the way of making is a change of what comes out of it.
RECIPE = b"1"


def make_environment() -> None:
    """Make .venv hold exactly the locked packages and this clone, unless it does already."""
    stamp = ENVIRONMENT / ".made-from"
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())
    installed = {part: project[part] for part in ("build-system", "project")} | {"hatch": project["tool"]["hatch"]}
    wanted = _key(LOCK.read_bytes(), json.dumps(installed).encode(), str(CLONE).encode())
    with exclusive(CLONE / ".venv.lock", ".venv"):
        if stamp.exists() and stamp.read_text() == wanted:
            return
        packages = _cached_packages()
        with step("making .venv"):
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            shutil.copytree(packages, ENVIRONMENT, symlinks=True, copy_function=_link)
            install = ["pip", "install", "--quiet", "--offline", "--python", str(ENVIRONMENT / "bin" / "python")]
            uv(*install, "--no-deps", "--no-build-isolation", "--editable", str(CLONE))
        stamp.write_text(wanted)


def make_operator_environment(target: Path) -> Path:
    """The Python of a new environment in ``target`` with the packages of the operator's image, no others, and the code
    of this clone."""
    python = target / "bin" / "python"
    with step("making an environment with the packages of requirements-operator.lock"):
        uv("venv", "--quiet", "--clear", "--python", sys.executable, str(target))
        _install(python, OPERATOR_LOCK)
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())
    folders = {str((CLONE / each).parent) for each in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    packages = target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "moe_operator.pth").write_text("\n".join(sorted(folders)) + "\n")
    return python


def _cached_packages() -> Path:
    """A relocatable environment with the locked packages and their bytecode."""
    target = cache_root() / "environments" / _key(LOCK.read_bytes())[:12]
    if target.exists():
        return target
    with exclusive(target.with_suffix(".lock"), "the packages of requirements.lock"):
        if not target.exists():
            unfinished = target.with_suffix(".unfinished")
            with step("installing the packages of requirements.lock (first time only: 6 GB to download)"):
                uv("venv", "--quiet", "--clear", "--relocatable", "--python", sys.executable, str(unfinished))
                _install(unfinished / "bin" / "python", LOCK)
            unfinished.rename(target)
    return target


def _install(python: Path, lock: Path) -> None:
    install = ["pip", "install", "--quiet", "--python", str(python), "--compile-bytecode"]
    locked = ["--require-hashes", "--requirement", str(lock)]
    try:
        # Offline first: where uv's cache has everything, not even an index is asked.
        uv(*install, "--offline", *locked)
    except SetupError:
        uv(*install, *locked)


def _key(*parts: bytes) -> str:
    digest = hashlib.sha256(RECIPE + sys.version.encode() + sys.base_prefix.encode())
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
