"""What the directory and the api import must not load torch: their processes would be ten times as large."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "safetensors", "ray"}


@pytest.mark.parametrize(
    "module", ["moe_serving", "moe_serving.checkpoint", "moe_serving.engine.request", "moe_serving.engine.errors"]
)
def test_light(module):
    code = f"import sys, {module}; print(*{HEAVY!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == []
