"""Which tests' files a lane may need, read from the sources: importing those of all lanes takes a quarter of a minute.

A test has a marker since its file writes it, or by a fixture that it asks for, directly or by other fixtures.
"""

import ast
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

MARK = re.compile(r"\bmark\.(\w+)")


class Uses:
    """What of `markers` the tests below `folder` may have, some of which come with `fixtures`."""

    def __init__(self, folder: Path, markers: Collection[str], fixtures: Collection[str]) -> None:
        self._markers = frozenset(markers)
        # By name: below which folders, or in which file, it is to be had.
        self._fixtures = {name: {folder} for name in fixtures}
        defined = [(path, each) for path in folder.rglob("*.py") for each in _read(path).functions if each.is_fixture]
        grew = True
        while grew:
            grew = False
            for path, each in defined:
                where = _seen_from(path, folder)
                if self._is_asked(path, each) and where not in self._fixtures.setdefault(each.name, set()):
                    self._fixtures[each.name].add(where)
                    grew = True

    def may_be_in(self, path: Path) -> bool:
        """Whether a test of the file may have one of the markers."""
        read = _read(path)
        return bool(read.marks & self._markers) or any(self._is_asked(path, each) for each in read.functions)

    def _is_asked(self, path: Path, function: "_Function") -> bool:
        around = {path, *path.parents}
        return any(self._fixtures.get(name, set()) & around for name in function.asks)


def _seen_from(path: Path, folder: Path) -> Path:
    """Where the fixtures of a file are to be had: in a file of tests, below a conftest, or wherever it is imported."""
    if path.name == "conftest.py":
        return path.parent
    return path if path.name.startswith("test_") else folder


class _Function(NamedTuple):
    """A fixture or a test, with what it asks for."""

    name: str
    is_fixture: bool
    asks: frozenset[str]


class _File(NamedTuple):
    functions: tuple[_Function, ...]
    marks: frozenset[str]
    """Names after `mark.`"""


@cache
def _read(path: Path) -> _File:
    source = path.read_bytes()
    return _File(tuple(_functions(ast.parse(source).body)), frozenset(MARK.findall(source.decode())))


def _functions(nodes: Sequence[ast.stmt]) -> Iterator[_Function]:
    """Those of a module and its classes: pytest looks into no function for others."""
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            yield from _functions(node.body)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        asks = {each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
        is_fixture = False
        for decorator in node.decorator_list:
            words = ast.unparse(decorator)
            is_fixture |= "fixture" in words and "usefixtures" not in words
            if "usefixtures" in words:
                texts = (each.value for each in ast.walk(decorator) if isinstance(each, ast.Constant))
                asks |= {text for text in texts if isinstance(text, str)}
        if is_fixture or node.name.startswith("test"):
            yield _Function(node.name, is_fixture, frozenset(asks))
