"""`make gpu-check` where it cannot run: one line says why, and nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.gpu import __main__ as check

CLONE = Path(__file__).parents[2]


@pytest.mark.torch
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--json", str(file)],
        cwd=CLONE, env={**environment, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("gpu-check did not run: there is no NVIDIA GPU that torch can use")
    assert not file.exists() and not done.stdout


def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check.importlib.util.find_spec
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None if name == "triton" else found(name))
    assert check.main(["--json", str(tmp_path / "gpu.json")]) == 2
    assert capsys.readouterr().err == (
        "gpu-check did not run: this Python has no triton: `make environment` makes one that has, in .venv\n"
    )
