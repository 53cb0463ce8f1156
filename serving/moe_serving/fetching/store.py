"""What keeps the files of a model: Hugging Face's hub, or a folder on the web."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from moe_serving.fetching.files import RemoteFile
from moe_serving.fetching.source import Repository, Source


class Store(Protocol):
    """All raise ModelError, DownloadFailed or AccessDenied, with the field of the MoEDeployment."""

    def names(self) -> Collection[str]:
        """Of all files there are."""

    def file(self, name: str) -> RemoteFile:
        """One of them."""

    def read(self, file: RemoteFile, begin: int, end: int) -> bytes | None:
        """Bytes ``[begin, end)`` of a file; None where no parts can be had. Called by several threads at once."""

    def fetch(self, file: RemoteFile, directory: Path, heard: Callable[[int], None]) -> None:
        """One file into a directory, unless it is there; what came is compared with what was told.

        Args:
            heard: is told how many bytes of it are there, now and then.
        """


def store_of(source: Source) -> Store:
    """Imports what it takes, which is a second."""
    if isinstance(source, Repository):
        from moe_serving.fetching.hub import Hub  # noqa: PLC0415

        return Hub(source)
    from moe_serving.fetching.folder import FolderStore  # noqa: PLC0415

    return FolderStore(source)


def sha256_of(file: Path) -> str:
    """In hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
