"""``moe-serve`` in a directory whose name a shell takes apart, as Ray's lines for its workers do."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.util, sys
from pathlib import Path
from moe_serving.standalone.ray_node import hide_odd_paths

assert "ray" not in sys.modules
hide_odd_paths(Path(sys.argv[1]))
print(sys.executable)
print(importlib.util.find_spec("ray").origin)
"""


@pytest.mark.parametrize("name", ["plain", "with a space", "it's $HOME", "größe"])
def test_ray_finds_its_python_by_a_plain_path(tmp_path: Path, name: str) -> None:
    environment = tmp_path / name / "venv"
    environment.parent.mkdir()
    environment.symlink_to(sys.prefix)
    links = tmp_path / "links"
    links.mkdir()
    python = environment / "bin" / "python"
    ended = subprocess.run([python, "-c", SCRIPT, links], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    executable, ray = map(Path, ended.stdout.splitlines())
    place = environment if name in ("plain", "größe") else links / "venv"
    assert executable == place / "bin" / "python"
    assert ray.is_relative_to(place)
    works = subprocess.run(
        [executable, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert works.stdout.strip() == str(place)
