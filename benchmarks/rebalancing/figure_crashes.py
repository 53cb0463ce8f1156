"""Figure 7: a process of each role, the operator too, ends at each step of a migration, as tests have it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.brain.report import Row
from benchmarks.rebalancing.sizes import Sizes

FIGURE = 7
ROOT = Path(__file__).resolve().parents[2]
OF_THE_DATA_PLANE = "tests/serving/test_crashes.py"
OF_THE_OPERATOR = ("tests/operator/reconcile/test_crash_points.py", "tests/operator/reconcile/test_rebalancing.py")


def rows(sizes: Sizes) -> list[Row]:
    """All points of directory, shards and attention replicas, or a sample of them; each write of the operator."""
    marked = ("-m", "whole") if sizes.all_crashes else ()
    ended, recovered = _tests(OF_THE_DATA_PLANE, *marked)
    written, _ = _tests(*OF_THE_OPERATOR, "-k", "death_after_any_write")
    found = [
        Row(FIGURE, "directory, shard, attention: exit code of the tests", ended, 0),
        Row(FIGURE, "operator: exit code of the tests", written, 0),
    ]
    if sizes.all_crashes:
        found.append(Row(FIGURE, "points, processes and times at which one ended, and all recovered", recovered))
    return found


def _tests(*arguments: str) -> tuple[int, int]:
    """Exit code, and lines of a case that was passed and recovered from."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, flush=True)
    return done.returncode, done.stdout.count("ended and recovered")
