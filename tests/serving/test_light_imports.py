"""What processes import before they know their model: Serve waits for it at each start, and so does whoever is to be
told what is wrong with a model. The api and the directory never load torch: they would be ten times as large.
"""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "safetensors", "scipy", "numba"}


def heavy_imports(module: str) -> set[str]:
    """Of ``HEAVY`` and Ray, what a fresh Python has imported after ``module``."""
    code = f"import sys, {module}; print(*{HEAVY | {'ray'}!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=200)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["cli", "checkpoint", "api.app", "streams.source", "streams.sender", "engine.request", "engine.errors"]
)
def test_what_they_share(module):
    assert heavy_imports(f"moe_serving.{module}") == set()


@pytest.mark.parametrize("process", ["builder", "api", "attention", "directory", "experts"])
def test_a_process_on_ray(process):
    assert heavy_imports(f"moe_serving.serve.{process}") == {"ray"}
