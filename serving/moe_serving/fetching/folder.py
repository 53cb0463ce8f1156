"""A folder on a web server or in an object store (S3), whose file ``SHA256SUMS`` says what is in it.

``SHA256SUMS`` is what ``sha256sum * > SHA256SUMS`` writes. Nothing is listed, so that any web server and the right to
read objects suffice, and one checksum, that of ``SHA256SUMS``, says what each file is.

Credentials are files of the folder that ``MOE_MODEL_SECRET`` names, as Kubernetes mounts a Secret: ``token`` is sent as
``Authorization: Bearer``; with ``accessKeyId``, ``secretAccessKey`` and, where it has one, ``sessionToken`` requests to
S3 are signed. Without them they are anonymous.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2

from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.tensors import is_inside
from moe_serving.fetching.files import RemoteFile
from moe_serving.fetching.source import Folder
from moe_serving.fetching.store import sha256_of
from moe_serving.fetching.web import Method, Request, Web, WebError, without_query

SUMS = "SHA256SUMS"
SECRET_FOLDER = "MOE_MODEL_SECRET"
_MOST_SUMS_BYTES = 4 << 20
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?([^\x00-\x1f\x7f\\]{1,1024})")
_SIGNED_FOR = timedelta(minutes=15)


class FolderStore:
    """Implements ``store.Store``."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._web = Web()

    def names(self) -> Collection[str]:
        return self._sums

    def file(self, name: str) -> RemoteFile:
        with self._told(name):
            return RemoteFile(name, self._web.size(self._request(name)), self._sums[name])

    def read(self, file: RemoteFile, begin: int, end: int) -> bytes | None:
        with self._told(file.name):
            return self._web.read_range(self._request(file.name), begin, end)

    def fetch(self, file: RemoteFile, directory: Path, heard: Callable[[int], None]) -> None:
        target = directory / file.name
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        with self._told(file.name):
            self._web.fetch(self._request(file.name), part, file.size, heard)
        if sha256_of(part) != file.sha256:
            part.unlink()
            raise ModelError(
                "DownloadFailed",
                f"{self._folder}: {file.name} came with another checksum than {SUMS} there says, {file.sha256}; it is "
                "tried again",
            )
        part.rename(target)

    @cached_property
    def _sums(self) -> dict[str, str]:
        """Checksum by name."""
        with self._told(SUMS):
            content = self._web.read(self._request(SUMS), _MOST_SUMS_BYTES)
        if hashlib.sha256(content).hexdigest() != self._folder.sha256:
            raise ModelError(
                "DownloadFailed",
                f"download.sha256 is {self._folder.sha256}, and {SUMS} at {self._folder.url} has another: give what "
                f"sha256sum {SUMS} prints there if the model there is the one that is meant",
            )
        return self._read_sums(content.decode(errors="replace"))

    def _read_sums(self, text: str) -> dict[str, str]:
        sums: dict[str, str] = {}
        for line in filter(None, text.splitlines()):
            found = _LINE.fullmatch(line)
            if found is None or not is_inside(found[2]):
                raise ModelError(
                    "DownloadFailed",
                    f"{self._folder}: {SUMS} has the line {line[:200]!a}, which is no checksum and name of a file in "
                    f"the folder: write it there with sha256sum * > {SUMS}",
                )
            sums[found[2]] = found[1].lower()
        return sums

    def _request(self, name: str) -> Request:
        return lambda method: self._signed(name, method)

    def _signed(self, name: str, method: Method) -> tuple[str, dict[str, str]]:
        """Address and headers, anew for each request: a signature ends."""
        folder = self._folder
        if not folder.endpoint:
            token = _credential("token")
            return folder.address(name), {"Authorization": f"Bearer {token}"} if token else {}
        access, secret = _credential("accessKeyId"), _credential("secretAccessKey")
        if not (access and secret):
            return folder.address(name), {}
        import obstore  # noqa: PLC0415 - what is not signed needs none of it
        from obstore.store import S3Store  # noqa: PLC0415

        token = _credential("sessionToken")
        session: dict[str, Any] = {"session_token": token} if token else {}
        store = S3Store(
            folder.bucket,
            endpoint=folder.endpoint,
            region=folder.region,
            access_key_id=access,
            secret_access_key=secret,
            **session,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        return obstore.sign(store, method, folder.key(name), _SIGNED_FOR), {}

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """What is in the way of a file, in a MoEDeployment's words."""
        try:
            yield
        except WebError as error:
            if error.status in (401, 403):
                raise ModelError(
                    "AccessDenied",
                    f"{self._folder}: {name} {error}: name a Secret that lets in by download.secretRef, or correct the "
                    "one that is named, or the address",
                ) from error
            cure = f"; it needs a file {SUMS}: sha256sum * > {SUMS}" if (name, error.status) == (SUMS, 404) else ""
            raise ModelError("DownloadFailed", f"{self._folder}: {name} {error}{cure}; it is tried again") from error
        except httpx2.HTTPError as error:
            raise ModelError(
                "DownloadFailed",
                f"{self._folder}: {name} cannot be fetched: {type(error).__name__}: {without_query(error):.300}; it is "
                "tried again",
            ) from error


def _credential(name: str) -> str | None:
    folder = os.environ.get(SECRET_FOLDER)
    try:
        return (Path(folder) / name).read_text().strip() or None if folder else None
    except FileNotFoundError:
        return None
