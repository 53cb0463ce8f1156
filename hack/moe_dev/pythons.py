"""Runs a target of the Makefile under each Python of this machine that the project supports: oldest and newest first.

`python -m moe_dev.pythons TARGET` looks for python3.11, python3.12 and so on in PATH and among pyenv's, says which it
found and which not, and ends with 1 where the target failed under any. With `--others` it leaves out the version that
it runs under itself, for who makes the target under that anyway. Standard library only: it runs before there is an
environment.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from moe_dev.paths import CLONE
from moe_dev.progress import say

OTHERS = "--others"


def supported() -> list[str]:
    """Minor versions such as 3.11, ascending, that pyproject.toml names."""
    text = (CLONE / "pyproject.toml").read_text()
    found = re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    return sorted(found, key=_number)


def oldest_and_newest_first(versions: Sequence[str]) -> list[str]:
    """The others between them, ascending."""
    ascending = sorted(versions, key=_number)
    return [*ascending[:1], *ascending[1:][-1:], *ascending[1:-1]]


def installed(versions: Sequence[str]) -> Mapping[str, Path]:
    """By minor version, the first of its places that runs and is what its name says."""
    found = {}
    for version in versions:
        refusals = []
        for program in _places(version):
            command = [str(program), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            if said.stdout.strip() == version:
                found[version] = program
                break
            words = (said.stderr or said.stdout).strip()[-300:]
            refusals.append(f"{program} does not run as Python {version}: {words}")
        for refusal in refusals if version not in found else ():
            say(f"left out: {refusal}")
    return found


def _places(version: str) -> Iterator[Path]:
    """Programs of this name in PATH, then those of pyenv, whose own command in PATH may refuse to run them."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [Path(folder) for folder in os.get_exec_path()]
    folders += sorted(pyenv.glob(f"versions/{version}.*/bin"), reverse=True)
    yield from (folder / name for folder in folders if os.access(folder / name, os.X_OK))


def _number(version: str) -> int:
    """3.11 comes after 3.9."""
    return int(version.partition(".")[2])


def main(target: str, *options: str) -> int:
    own = "{}.{}".format(*sys.version_info)
    versions = [version for version in supported() if options != (OTHERS,) or version != own]
    found = installed(versions)
    absent = [version for version in versions if version not in found]
    order = oldest_and_newest_first(list(found))
    say(f"Pythons here: {', '.join(order) or 'none'}; not found: {', '.join(absent) or 'none'}")
    failed = []
    for version in order:
        say(f"make {target} PYTHON={found[version]}")
        if subprocess.run(["make", target, f"PYTHON={found[version]}"], cwd=CLONE, check=False).returncode != 0:
            failed.append(version)
    for version in order:
        say(f"Python {version}: make {target} {'failed' if version in failed else 'passed'}")
    return 1 if failed or not (order or options) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
