"""What a file imports before a line of it runs, read from the sources: importing torch to find out takes seconds."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path


class Imports:
    """Imports of the modules below `roots`; what lies elsewhere is known by its name only."""

    def __init__(self, roots: Sequence[Path]) -> None:
        # With what is in them: most that is imported is in none.
        self._roots = [(root, {each.stem for each in root.iterdir()}) for root in roots if root.is_dir()]
        self._found: dict[str, list[Path]] = {}
        self._direct: dict[Path, tuple[frozenset[Path], frozenset[str]]] = {}

    def of(self, path: Path) -> frozenset[str]:
        """Dotted names of all that importing the file `path` imports from elsewhere, by whatever way."""
        seen, elsewhere, waiting = {path}, set[str](), [path]
        while waiting:
            files, names = self._of_itself(waiting.pop())
            elsewhere |= names
            waiting += files - seen
            seen |= files
        return frozenset(elsewhere)

    def _of_itself(self, path: Path) -> tuple[frozenset[Path], frozenset[str]]:
        """The files that are run for its own statements, and names from elsewhere; read once, since most files are
        imported by hundreds."""
        if path not in self._direct:
            found = {name: self._files(name) for name in _imported(path)}
            files = frozenset(file for each in found.values() for file in each)
            self._direct[path] = files, frozenset(name for name, each in found.items() if not each)
        return self._direct[path]

    def _files(self, name: str) -> list[Path]:
        """The files that `import name` runs: of the packages around the module and its own; none from elsewhere."""
        if name not in self._found:
            self._found[name] = self._look_for(name.split("."))
        return self._found[name]

    def _look_for(self, parts: Sequence[str]) -> list[Path]:
        for root in (root for root, names in self._roots if parts[0] in names):
            below = [root.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]
            candidates = [*(folder / "__init__.py" for folder in below), below[-1].with_suffix(".py")]
            found = [candidate for candidate in candidates if candidate.exists()]
            if found:
                return found
        return []


def _imported(path: Path) -> tuple[str, ...]:
    """Dotted names that are imported when the file is."""
    found: list[str] = []
    for node in _run_at_import(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # What is imported from a package may be a module of it.
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Expr | ast.Assign):
            found += _wanted_or_skipped(node.value)
    return tuple(found)


def _wanted_or_skipped(value: ast.expr) -> list[str]:
    """The module of `pytest.importorskip("module")`."""
    if not isinstance(value, ast.Call) or ast.unparse(value.func) != "pytest.importorskip":
        return []
    return [ast.literal_eval(value.args[0])]


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The statements, but for those in functions and those for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.expr):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _run_at_import(child)
