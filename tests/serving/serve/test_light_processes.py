"""What each process of the data plane imports when it starts: one heavy library too many costs each of them seconds."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "ray"}


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("moe_serving.cli", set()),
        ("moe_serving.api.app", {"transformers"}),
        ("moe_serving.streams.source", set()),
        ("moe_serving.streams.sender", set()),
        ("moe_serving.serve.builder", {"ray"}),
        ("moe_serving.serve.directory", {"ray"}),
        ("moe_serving.serve.experts", {"ray"}),
        ("moe_serving.serve.attention", {"ray"}),
        ("moe_serving.serve.api", {"ray", "transformers"}),
    ],
)
def test_imports(module, needs) -> None:
    code = f"import sys, {module}; print(*{HEAVY!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert set(done.stdout.split()) == needs
