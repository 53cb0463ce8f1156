"""What a worker imports that waits for a shard."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

IMPORTED = """
import importlib, json
seen = []
importlib.import_module = seen.append
import moe_serving.serve.warm
print(json.dumps(seen))
"""


def imported(folder: Path) -> list[str]:
    """By a worker in a pod with this folder for files that pass."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    return json.loads(subprocess.check_output([sys.executable, "-c", IMPORTED], env=environment, text=True))


def test_the_first_worker_of_a_pod_imports_what_a_shard_needs_and_no_other_one(tmp_path: Path) -> None:
    first = imported(tmp_path)
    assert "moe_serving.experts.shard" in first
    assert all(importlib.util.find_spec(name) for name in first)
    assert imported(tmp_path) == []
