"""The memory benchmark on a smaller model: no process keeps more experts than its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_process_holds_its_own_only(tmp_path: Path) -> None:
    written = tmp_path / "memory.json"
    sizes = ["--shards", "2", "--layers", "2", "--requests", "8"]
    command = [sys.executable, "-m", "benchmarks.memory", *sizes, "--json", str(written)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, attention, *shards = json.loads(written.read_text())
    assert whole["grown"] > whole["experts"] > 200_000_000
    assert attention["experts"] == 0
    assert [shard["process"] for shard in shards] == ["shard 0", "shard 1"]
    assert sum(shard["experts"] for shard in shards) == whole["experts"]
