"""Kernels for GPUs under Triton's interpreter, which a process has for good or not at all: so in one of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

FOLDER = Path(__file__).parent / "interpreted"
SECONDS = 280


# Each takes the interpreter half a minute of CPU time; the kernels for rows are the sample.
FILES = [
    pytest.param(path.name, marks=[] if path.name == "test_rows.py" else pytest.mark.long)
    for path in sorted(FOLDER.glob("test_*.py"))
]


@pytest.mark.parametrize("file", FILES)
def test_kernels_compute_what_torch_does(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout.splitlines()[-1], done.stdout[-2000:]
