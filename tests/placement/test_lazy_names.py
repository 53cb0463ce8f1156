"""``import moe_placement`` takes no more than ``Placement`` needs; its other names lead on when they are used."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import moe_placement

NEEDED = {"moe_placement", "moe_placement.checks", "moe_placement.errors", "moe_placement.placement"}


def loaded(code: str, beyond: str) -> set[str]:
    """Modules that a fresh Python has after ``code`` and had not after ``beyond``."""
    count = f"import sys\n{beyond}\nbefore = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", count], check=True, capture_output=True, text=True, timeout=100)
    return set(done.stdout.split())


def typed() -> dict[str, str]:
    """Each public name and the module that type checkers find it in."""
    tree = ast.parse(Path(moe_placement.__file__).read_text())
    return {
        alias.name: node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("moe_placement.")
        for alias in node.names
    }


def test_importing_it_takes_what_a_placement_needs() -> None:
    # Counted, not timed: a time would say more of the machine.
    found = loaded("import moe_placement", beyond="import numpy")
    assert {name for name in found if name.partition(".")[0] not in {"numpy", *sys.stdlib_module_names}} == NEEDED


def test_one_name_takes_its_own_module_only() -> None:
    found = loaded("from moe_placement import balanced_placement", beyond="import moe_placement")
    assert "moe_placement.initial" in found
    assert not {"moe_placement.solver", "moe_placement.statistics", "scipy"} & found


def test_every_public_name_is_typed_where_it_is() -> None:
    assert typed().keys() == {*moe_placement.__all__}
    for name, module in typed().items():
        assert getattr(moe_placement, name) is getattr(importlib.import_module(module), name)
    assert {*moe_placement.__all__} <= {*dir(moe_placement)}


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'moe_placement' has no attribute 'solved'"):
        moe_placement.solved  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'solved'"):
        exec("from moe_placement import solved")
