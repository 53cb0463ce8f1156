"""What Ray is told of by name exists: ``"package.module:name"`` is an import that no tool follows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_contract.applications import CORE_IMPORT_PATH, SHARD_IMPORT_PATH, CoreArgs, ShardArgs
from moe_dev.paths import CLONE

ROOTS = ("placement", "contract", "serving", "operator", "hack")
IMPORT_PATH = re.compile(r"moe_\w+(\.\w+)*:\w+")


def named() -> Iterator[str]:
    for path in (path for root in ROOTS for path in sorted((CLONE / root).rglob("moe_*/**/*.py"))):
        text = path.read_text()
        if IMPORT_PATH.search(text) is None:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and IMPORT_PATH.fullmatch(node.value):
                yield node.value


def source(module: str) -> Path:
    below = module.replace(".", "/")
    (found,) = (path for root in ROOTS for path in (CLONE / root / f"{below}.py",) if path.exists())
    return found


def definition(import_path: str) -> ast.stmt:
    """Read from the source: to import it would start with Ray, or torch."""
    module, _, name = import_path.partition(":")
    return next(node for node in ast.parse(source(module).read_text()).body if getattr(node, "name", None) == name)


@pytest.mark.parametrize("import_path", sorted({*named()}))
def test_it_exists(import_path: str) -> None:
    assert isinstance(definition(import_path), ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


@pytest.mark.parametrize(("import_path", "args"), [(CORE_IMPORT_PATH, CoreArgs), (SHARD_IMPORT_PATH, ShardArgs)])
def test_a_builder_takes_the_arguments_that_are_rendered_for_it(import_path: str, args: type) -> None:
    assert import_path in {*named()}
    builder = definition(import_path)
    assert isinstance(builder, ast.FunctionDef)
    assert [ast.unparse(arg.annotation) for arg in builder.args.args if arg.annotation] == [args.__name__]
