"""The benchmarks of speed at their shortest, with real processes.

On one core: beside other tests torch's threads would wait for each other in a loop, a hundred times as long.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.contest.machine import SLOWING

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.timeout(600)]


def written_by(module: str, *arguments: str, file: Path) -> Any:
    """What the benchmark writes as JSON."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SLOWING)}
    python = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), sys.executable]
    command = [*python, "-m", f"benchmarks.{module}", *arguments, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text())


def test_whoever_takes_part_answers_as_the_baseline(tmp_path: Path) -> None:
    wanted = ["generate", "continuous", "unix", "tcp"]
    sizes = ["--short", "--contestants", *wanted, "--batches", "2", "--prompt", "4", "--tokens", "3"]
    rows = written_by("speed", *sizes, file=tmp_path / "speed.json")["rows"]
    names = ["whole", *wanted, "memory limit"]
    assert [(row["batch"], row["contestant"]) for row in rows] == [(2, name) for name in names]
    assert all(row["decode"]["median"] > 0 and row["decode_ratio"]["median"] > 0 for row in rows)
    *answered, limit = rows
    assert {row["tokens"] for row in answered} <= {"equal", "equal but for ties in 1"}
    assert " MB a step" in limit["how"] and limit["prefill"] is None


def test_every_section_of_a_step_is_passed_through(tmp_path: Path) -> None:
    rows = written_by("step", "--batches", "1", "3", "--steps", "6", file=tmp_path / "step.json")
    calls = {(row["batch"], row["section"]): row["calls"] for row in rows}
    layers = 6
    for batch in (1, 3):
        assert calls[batch, "Python, norms"] == calls[batch, "head"] == 1, "a step is a step"
        assert calls[batch, "gate"] == calls[batch, "attention"] == calls[batch, "choose"] == layers
        assert all(calls[batch, name] >= layers for name in ("pack", "wire", "unpack", "statistics"))
        assert calls[batch, "sampling"] == 2
    spent = [row["microseconds"] for row in rows if row["section"] not in ("wire", "compute")]
    assert all(each > 0 for each in spent)
