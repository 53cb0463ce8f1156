"""``moe-serve`` in a directory whose name a shell takes apart, as Ray's lines for its workers do."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.util, sys
from pathlib import Path
from moe_serving.standalone.ray_head import HeadPorts, head_command

print(head_command(Path(sys.argv[1]), HeadPorts(1, 2, 3))[0])
"""
FIND = "import importlib.util, sys; print(sys.prefix); print(importlib.util.find_spec('ray').origin)"


@pytest.mark.parametrize("name", ["plain", "with a space", "it's $HOME", "größe"])
def test_ray_finds_its_python_by_a_plain_path(tmp_path: Path, name: str) -> None:
    environment = tmp_path / name / "venv"
    environment.parent.mkdir()
    environment.symlink_to(sys.prefix)
    links = tmp_path / "links"
    links.mkdir()
    ended = subprocess.run(
        [environment / "bin" / "python", "-c", SCRIPT, links], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    executable = ended.stdout.strip()
    assert executable == str(links / "venv" / "bin" / "python")
    found = subprocess.run([executable, "-c", FIND], capture_output=True, text=True, check=True)
    prefix, ray = map(Path, found.stdout.splitlines())
    assert prefix == links / "venv"
    assert ray.is_relative_to(prefix)
