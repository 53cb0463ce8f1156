"""Every module can be imported by its name: nothing that a package exports hides one."""

import importlib
import pkgutil
import sys

import pytest

import moe_placement

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(moe_placement.__path__, "moe_placement.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_a_name_leads_to_its_module(name: str) -> None:
    if name.endswith("kernel_cache"):
        pytest.importorskip("numba")
    importlib.import_module(name)
    found: dict[str, object] = {}
    exec(f"import {name} as module", found)
    assert found["module"] is sys.modules[name]
