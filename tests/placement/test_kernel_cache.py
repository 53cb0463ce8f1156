"""Compiled kernels are kept by what they were compiled from: another clone compiles nothing, a change compiles anew."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="nothing is compiled without it")

PLACEMENT = Path(__file__).parents[2] / "placement"
# Calls a kernel into which another file's is inlined; says what it is, and how often a kernel was compiled.
MEASURE = """
import numpy as np
from numba.core.dispatcher import Dispatcher
from moe_placement.solver import cover, problem

value = problem.even_shares(np.array([3]), 2)[0, 0]
kernels = [each for module in (cover, problem) for each in vars(module).values()]
print(value, sum(sum(each.stats.cache_misses.values()) for each in kernels if isinstance(each, Dispatcher)))
"""


@pytest.fixture
def clone(tmp_path: Path):
    """Makes copies of the brain's sources, each in another place and as old as is said."""

    def make(name: str, modified: float) -> Path:
        sources = shutil.copytree(PLACEMENT, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        for source in sources.rglob("*.py"):
            os.utime(source, (modified, modified))
        return sources

    return make


def measure(sources: Path, cache: Path) -> tuple[float, int, str]:
    """What the kernel answers in a process of its own, how many kernels were compiled, and what was logged."""
    environment = {**os.environ, "PYTHONPATH": str(sources), "NUMBA_CACHE_DIR": str(cache)}
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stderr
    value, compiled = ended.stdout.split()
    return float(value), int(compiled), ended.stderr


@pytest.mark.slow
def test_a_second_clone_compiles_nothing_and_a_changed_one_what_the_change_reaches(clone, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    value, compiled, _ = measure(clone("first", 1e9), cache)
    assert compiled > 0
    second = clone("second", 1.5e9)
    assert measure(second, cache)[:2] == (value, 0)
    called = second / "moe_placement" / "solver" / "cover.py"
    assert "+ (pairs >> 2)\n" in called.read_text()
    called.write_text(called.read_text().replace("+ (pairs >> 2)\n", "+ (pairs >> 2) + 1\n"))
    changed, compiled, _ = measure(second, cache)
    assert compiled > 0
    assert changed != value


@pytest.mark.slow
def test_a_constant_of_another_file_is_part_of_what_they_were_compiled_from(clone, tmp_path: Path) -> None:
    sources = clone("clone", 1e9)
    named = "import moe_placement.kernel_cache as c; print(c.kernel_directory())"
    environment = {**os.environ, "PYTHONPATH": str(sources), "NUMBA_CACHE_DIR": str(tmp_path)}

    def directory() -> str:
        return subprocess.run(
            [sys.executable, "-c", named], env=environment, capture_output=True, text=True, timeout=200, check=True
        ).stdout

    before = directory()
    for name in ("dispatch.py", "solver/constants.py", "compiled.py", "dispatch_kernel.py"):
        source = sources / "moe_placement" / name
        source.write_text(source.read_text() + "# changed\n")
        now = directory()
        assert now != before, name
        before = now


@pytest.mark.slow
def test_where_nothing_can_be_kept_it_is_said_once_and_all_works(clone) -> None:
    _, compiled, said = measure(clone("clone", 1e9), Path("/dev/null/nowhere"))
    assert compiled > 0
    assert said.count("compiled kernels are not kept for the next process") == 1
    assert "NUMBA_CACHE_DIR can name another place" in said


ELSEWHERE = """
import numpy as np
from moe_placement.compiled import compiled_sums

@compiled_sums
def total(values):
    found = np.float32(1.5)
    for value in values:
        found += value
    return found

if __name__ == "__main__":
    import elsewhere
    print(elsewhere.total(np.arange(4, dtype=np.float32)), sum(elsewhere.total.stats.cache_misses.values()))
"""


@pytest.mark.slow
def test_kernels_of_another_package_are_kept_by_their_own_file(tmp_path: Path) -> None:
    file, environment = tmp_path / "elsewhere.py", {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run(text: str) -> str:
        file.write_text(text)
        return subprocess.run(
            [sys.executable, str(file)], env=environment, capture_output=True, text=True, timeout=200, check=True
        ).stdout.strip()

    assert run(ELSEWHERE) == "7.5 1"
    assert run(ELSEWHERE) == "7.5 0"
    assert run(ELSEWHERE.replace("1.5", "2.5")) == "8.5 1"
