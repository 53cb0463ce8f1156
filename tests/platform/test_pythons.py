"""`make check-pythons` leaves no Python out without a word."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from moe_dev import pythons
from moe_dev.paths import CLONE
from moe_dev.pythons import oldest_and_newest_first


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ([], []),
        (["3.11"], ["3.11"]),
        (["3.14", "3.11"], ["3.11", "3.14"]),
        (["3.11", "3.12", "3.13", "3.14"], ["3.11", "3.14", "3.12", "3.13"]),
        (["3.9", "3.10"], ["3.9", "3.10"]),
    ],
)
def test_the_ends_of_the_range_come_first(found: list[str], order: list[str]) -> None:
    assert oldest_and_newest_first(found) == order


def test_the_range_is_that_of_the_documents_and_of_the_first_line() -> None:
    versions = pythons.supported()
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert f"Python {versions[0]} to {versions[-1]}" in (CLONE / "README.md").read_text()
    assert f"Python {versions[0]} to {versions[-1]}" in (CLONE / "hack" / "check-tools.sh").read_text()


@pytest.mark.parametrize(("broken", "status"), [("", 0), ("3.14", 1)])
def test_each_python_there_is_runs_the_target_or_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str, status: int
) -> None:
    def program(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    for version in ("3.11", "3.14"):
        program(f"python{version}", f"echo {version}")
    of_pyenv = tmp_path / "versions" / "3.13.0" / "bin"
    of_pyenv.mkdir(parents=True)
    program("python3.13", "echo not chosen >&2; exit 127")
    program(f"{of_pyenv}/python3.13", "echo 3.13")
    program("python3.12", "echo no such version >&2; exit 1")
    program("make", f'echo "$@" >>{tmp_path}/calls; case "$*" in *python{broken or "none"}) exit 2;; esac')
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert pythons.main("check") == status
    assert re.findall(r"check PYTHON=.*/python(\S+)", (tmp_path / "calls").read_text()) == ["3.11", "3.14", "3.13"]
    (tmp_path / "calls").unlink()
    own = "{}.{}".format(*sys.version_info)
    assert pythons.main("check", "--others") == (1 if broken not in ("", own) else 0)
    others = [version for version in ("3.11", "3.14", "3.13") if version != own]
    assert sorted(re.findall(r"check PYTHON=.*/python(\S+)", (tmp_path / "calls").read_text())) == sorted(others)
    said = capsys.readouterr().out
    assert "python3.12 does not run as Python 3.12: no such version" in said
    assert "Pythons here: 3.11, 3.14, 3.13; not found: 3.12" in said
    assert f"Python 3.14: make check {'failed' if status else 'passed'}" in said


def test_it_runs_without_an_environment() -> None:
    ended = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.append({str(CLONE / 'hack')!r}); import moe_dev.pythons"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
