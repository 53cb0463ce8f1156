"""Hugging Face's hub, by its own library: what a repository has, and its files into a directory.

The library asks the hub that ``HF_ENDPOINT`` names, with the token of the node: ``HF_TOKEN``, or what the file
``HF_TOKEN_PATH`` has, which is a Secret of Kubernetes or what ``hf auth login`` left. It goes on within a file when a
connection breaks. What it brings lies in a folder of its own until it was compared with what the hub tells: a file in
its place is whole, and neither fetched nor read again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from huggingface_hub import HfApi, get_session, get_token, hf_hub_download, hf_hub_url
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # documented

from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.tensors import is_inside
from moe_serving.fetching.files import RemoteFile
from moe_serving.fetching.source import Repository
from moe_serving.fetching.store import sha256_of
from moe_serving.fetching.web import NO_RANGES, range_of, without_query

_ARRIVING = ".arriving"
"""Folder of a checkpoint for what is not whole yet."""
_READ_SECONDS = 60.0
"""Without a byte of what was asked for."""


class Hub:
    """Implements ``store.Store``."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def names(self) -> Collection[str]:
        return self._files

    def file(self, name: str) -> RemoteFile:
        return self._files[name]

    @cached_property
    def _files(self) -> dict[str, RemoteFile]:
        """By name; those in LFS have a checksum, small ones are kept in git."""
        name, revision = self._repository.name, self._repository.revision
        with _told(self._repository):
            found = HfApi(_endpoint()).model_info(name, revision=revision, timeout=_READ_SECONDS, files_metadata=True)
        return {
            each.rfilename: RemoteFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else None)
            for each in found.siblings or ()
            if is_inside(each.rfilename)
        }

    def read(self, file: RemoteFile, begin: int, end: int) -> bytes | None:
        repository = self._repository
        address = hf_hub_url(repository.name, file.name, revision=repository.revision, endpoint=_endpoint())
        headers = {**build_hf_headers(), "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        with (
            _told(repository),
            get_session().stream("GET", address, headers=headers, timeout=_READ_SECONDS) as answer,
        ):
            if answer.status_code in NO_RANGES:
                return None
            hf_raise_for_status(answer)
            return range_of(answer, begin, end)

    def fetch(self, file: RemoteFile, directory: Path, heard: Callable[[int], None]) -> None:
        repository, target = self._repository, directory / file.name
        if not target.exists():
            with _told(repository):
                path = Path(
                    hf_hub_download(
                        repository.name,
                        file.name,
                        revision=repository.revision,
                        local_dir=directory / _ARRIVING,
                        endpoint=_endpoint(),
                    )
                )
            wrong = _fault(path, file)
            if wrong is not None:
                path.unlink()
                raise ModelError("DownloadFailed", f"{repository}: {file.name} {wrong}; it is tried again")
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        heard(file.size)


def _endpoint() -> str | None:
    """As it is now: the library reads it when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _fault(path: Path, file: RemoteFile) -> str | None:
    size = path.stat().st_size
    if size != file.size:
        return f"came with {size} bytes, the hub tells of {file.size}"
    if file.sha256 is None:
        return None
    found = sha256_of(path)
    return None if found == file.sha256 else f"came with checksum sha256:{found}, the hub tells of {file.sha256}"


def _with_token() -> str:
    """What to do about access, as it stands on this node."""
    kept = "a Secret that huggingFace.tokenSecretRef names (runtime.kubeRay), or HF_TOKEN of the nodes"
    if get_token() is None:
        return f"give the token of who has it, which is not set here: {kept}"
    return f"give the token of who has it, which is another than the one that is set here: {kept}"


@contextmanager
def _told(repository: Repository) -> Iterator[None]:
    """The library's errors in our words."""
    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            "AccessDenied",
            f"{repository} is gated, and the hub lets only those in who were granted access: ask "
            f"for it there, and {_with_token()}",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            "DownloadFailed",
            f"huggingFace.revision {repository.revision} is no commit of {repository.name}: copy it from the hub",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            "AccessDenied",
            f"{repository}: the hub has no such repository, or does not show it to everybody: "
            f"correct the name, or {_with_token()}",
        ) from error
    except Exception as error:  # HTTP's own and the library's, the disk's, and what a strange answer leads to
        raise ModelError(
            "DownloadFailed",
            f"{repository} cannot be fetched: {type(error).__name__}: {without_query(error):.300}; it is tried again",
        ) from error
