"""What keeps the tree in shape where no tool looks: import roots, lazy imports, declared dependencies, lock files."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from moe_dev.paths import CLONE

PROJECT = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
PACKAGES = {
    "moe_placement": CLONE / "placement",
    "moe_contract": CLONE / "contract",
    "moe_serving": CLONE / "serving",
    "moe_operator": CLONE / "operator",
}
MAY_IMPORT = {
    "moe_placement": [],
    "moe_contract": ["moe_placement"],
    "moe_serving": ["moe_placement", "moe_contract"],
    "moe_operator": ["moe_placement", "moe_contract"],
}
# Distributions whose import has another name.
IMPORT_NAMES = {"pyyaml": "yaml"}
# Parts of these, not choices of ours: URLs, web server, validator, compiler of kernels, tokenizers.
COMES_WITH = {
    "aiohttp": {"multidict", "yarl"},
    "fastapi": {"starlette"},
    "pydantic": {"pydantic_core"},
    "torch": {"triton"},
    "transformers": {"tokenizers"},
}


def imports(package: str) -> Iterator[tuple[Path, str]]:
    """Top-level modules that a package imports, and where."""
    for path in sorted((PACKAGES[package] / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, name.name.partition(".")[0]) for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield path, node.module.partition(".")[0]


def declared(extra: str | None) -> set[str]:
    """Modules of the distributions that the project, or one of its extras, depends on."""
    lines = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    names = {re.split(r"[\[=<>~! ]", line)[0].lower() for line in lines}
    modules = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}
    return modules.union(*(COMES_WITH.get(name, set()) for name in names))


def test_operator_is_a_root_and_never_a_package() -> None:
    # A package of this name would shadow Python's own `operator`, which half of the standard library imports.
    assert not (CLONE / "operator" / "__init__.py").exists()
    code = "import operator, sys; print(operator.__file__)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=CLONE, capture_output=True, text=True, check=True)
    assert str(CLONE / "operator") not in ended.stdout


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("moe_placement", ["fast", "plots"]),
        ("moe_contract", ["operator"]),
        ("moe_contract", ["serving"]),
        ("moe_serving", ["serving"]),
        ("moe_operator", ["operator"]),
    ],
)
def test_what_is_imported_is_declared(package: str, extras: list[str]) -> None:
    allowed = {package, *MAY_IMPORT[package]} | set(sys.stdlib_module_names)
    allowed = allowed.union(declared(None), *map(declared, extras))
    undeclared = {f"{path.relative_to(CLONE)}: {name}" for path, name in imports(package) if name not in allowed}
    assert not undeclared


def test_the_brain_takes_optional_packages_only_lazily() -> None:
    code = (
        "import sys, moe_placement.solver, moe_placement.encoding; print(*{'numba', 'matplotlib'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-operator.lock", "requirements-serving.lock", "hack/uv.lock"]
)
def test_locks_hold_names_versions_and_hashes_only(lock: str) -> None:
    text = (CLONE / lock).read_text()
    requirements = re.findall(r"^(\S+)==\S+.*\\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.MULTILINE)
    assert len(requirements) == len(re.findall(r"^[a-zA-Z]", text, re.MULTILINE))
    assert "://" not in text


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements.lock", PROJECT["optional-dependencies"]),
        ("requirements-operator.lock", ["operator"]),
        ("requirements-serving.lock", ["serving"]),
    ],
)
def test_locks_hold_what_the_project_pins(lock: str, extras: Iterable[str]) -> None:
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (CLONE / lock).read_text(), re.MULTILINE))
    wanted = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    stale = []
    for requirement in wanted:
        needed = Requirement(requirement)
        version = locked.get(needed.name.lower())
        if version is None or not needed.specifier.contains(version):
            stale.append(f"{requirement}: locked is {version}; run `make lock`")
    assert not stale


def test_the_operator_needs_neither_torch_nor_ray() -> None:
    names = set(re.findall(r"^([a-z0-9-]+)==", (CLONE / "requirements-operator.lock").read_text(), re.MULTILINE))
    assert {"kopf", "kubernetes", "pydantic", "numpy"} <= names
    assert not names & {"torch", "ray", "transformers", "safetensors", "fastapi"}


def test_every_target_is_in_the_help() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (CLONE / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "-C", str(CLONE), "help"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make (\S+)", shown, re.MULTILINE) == phony[1].split()


def test_the_readmes_manifest_is_the_example() -> None:
    assert (CLONE / "examples" / "01-tiny.yaml").read_text() in (CLONE / "README.md").read_text()
