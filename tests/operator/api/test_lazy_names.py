"""Names of the API without its types: ``kubectl moe`` starts with them."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from moe_operator import api


def test_names_and_phases_take_no_types() -> None:
    code = "import sys, moe_operator.api.names, moe_operator.api.phase, moe_operator.api.reasons; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=100)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not {"pydantic", "numpy", "moe_contract"} & loaded


def test_every_public_name_is_typed_where_it_is() -> None:
    tree = ast.parse(Path(api.__file__).read_text())
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("moe_operator.api.")
        for alias in node.names
    }
    assert typed.keys() == {*api.__all__} <= {*dir(api)}
    for name, module in typed.items():
        assert getattr(api, name) is getattr(importlib.import_module(module), name)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Deployment'"):
        api.Deployment  # noqa: B018
