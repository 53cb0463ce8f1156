"""Where compiled kernels are kept: by what they were compiled from, not by where and when that was written.

Numba's own cache lies beside each source file and knows only that file: every clone compiles anew, and a kernel into
which another file's kernel was inlined is not compiled again when that one changes. Here a directory is named after
everything that decides the machine code but the processor and the argument types, which Numba's index knows: so a
second clone, and a container with the directory in its image, compile nothing.

Kernels of another package are each file by itself: it names no constant and inlines nothing but the brain's decorators.

The directory is below ``NUMBA_CACHE_DIR`` where that is set, else below the user's cache. It may be read-only: what is
not in it is then compiled in every process.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
_COMPILES = re.compile(r"^from moe_placement\.compiled import .*\bcompiled\b", re.MULTILINE)
_IMPORTED = re.compile(r"^from (moe_placement(?:\.\w+)+) import", re.MULTILINE)


@functools.cache
def kernel_directory(file: Path | None = None) -> Path:
    """Of this version of the brain's kernels, or of those in a ``file`` elsewhere, by this Numba; it need not exist."""
    return _root() / f"kernels-{_digest(file)[:16]}"


def _root() -> Path:
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "moe-operator"


def _digest(file: Path | None) -> str:
    """Over the versions of Python and Numba and the sources of all kernels and of what these import.

    All of them for each: a kernel is inlined into those that call it, and a constant into those that read it.
    """
    digest = hashlib.sha256(f"{sys.version} {numba.__version__}".encode())
    if file is not None:
        for source in (_PACKAGE / "compiled.py", Path(__file__), file):
            digest.update(f"\0{source.name}\0".encode() + source.read_bytes())
        return digest.hexdigest()
    compiling = [source for source in _PACKAGE.rglob("*.py") if _COMPILES.search(source.read_text())]
    kernels = [_PACKAGE / "compiled.py", Path(__file__), *compiling]
    names = {name for kernel in kernels for name in _IMPORTED.findall(kernel.read_text())}
    constants = [_PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in names]
    for source in sorted({*kernels, *filter(Path.is_file, constants)}):
        digest.update(f"\0{source.relative_to(_PACKAGE)}\0".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


class _Locator(_CacheLocator):
    def __init__(self, line: int, directory: Path) -> None:
        self._line = line
        self._directory = directory

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        file = Path(py_file)
        directory = kernel_directory(None if file.is_relative_to(_PACKAGE) else file)
        return cls(py_func.__code__.co_firstlineno, directory)

    def ensure_cache_path(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return str(self._directory)

    def get_source_stamp(self) -> str:
        return self._directory.name

    def get_disambiguator(self) -> str:
        return str(self._line)


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 - as Numba declares it


class _Files(IndexDataCacheFile):
    def save(self, key: Any, data: Any) -> None:
        """One process at a time: two that read the same index would give the same file to different signatures."""
        with open(Path(self._cache_path) / ".lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().save(key, data)  # type: ignore[no-untyped-call]


class KernelCache(FunctionCache):
    """Numba's cache of one function, in its file's ``kernel_directory``."""

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        files = self._cache_file
        self._cache_file = _Files(files._cache_path, self._impl.filename_base, files._source_stamp)  # type: ignore[no-untyped-call]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """A function compiled before; None where there is none, or it cannot be read."""
        with _told():
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function; one that cannot be kept is compiled all the same."""
        with _told():
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _say_not_kept(f"{error.strerror}: {kernel_directory()}")


@functools.cache
def _say_not_kept(error: str) -> None:
    logger.warning(
        "compiled kernels are not kept for the next process: %s; NUMBA_CACHE_DIR can name another place", error
    )
