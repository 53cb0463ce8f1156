"""What processes import before they know their model: Serve waits for it at each start, and so does whoever is to be
told what is wrong with a model. The api and the directory never load torch: they would be ten times as large.
"""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "safetensors", "scipy", "numba"}


def heavy_imports(*modules: str) -> list[set[str]]:
    """Of ``HEAVY`` and Ray, what a fresh Python has imported after each, one after the other."""
    lines = "\n".join(f"import {module}; print(*{HEAVY | {'ray'}!r} & sys.modules.keys())" for module in modules)
    code = f"import sys\n{lines}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=200)
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_what_they_share() -> None:
    names = ("cli", "checkpoint", "api.app", "streams.source", "streams.sender", "engine.request", "engine.errors")
    found = heavy_imports(*(f"moe_serving.{name}" for name in names))
    assert dict(zip(names, found, strict=True)) == {name: set() for name in names}


@pytest.mark.slow
def test_a_process_on_ray() -> None:
    """What one imports heavily, it and all after it have: the first that is named is at fault."""
    names = ("builder", "api", "attention", "directory", "experts")
    found = heavy_imports(*(f"moe_serving.serve.{name}" for name in names))
    assert dict(zip(names, found, strict=True)) == {name: {"ray"} for name in names}
