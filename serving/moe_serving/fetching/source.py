"""Where a model's path leads: a directory, a repository of Hugging Face at one commit, or a folder on the web. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(f"hf://({_NAME}/{_NAME})@([0-9a-f]{{40}})")
_FOLDER = re.compile(r"((?:https|s3)://[!-~]+?)/*#([!-~]+)")
_SHA256 = re.compile("[0-9a-f]{64}")
_REGION = re.compile(r"s3[.-]([a-z0-9-]+)\..+")


@dataclass(frozen=True, slots=True)
class Repository:
    """Of Hugging Face.

    Attributes:
        name: ``organisation/model``.
        revision: a commit, 40 hexadecimal digits: what a branch names may change under processes that start later.
    """

    name: str
    revision: str

    @classmethod
    def parse(cls, path: str) -> Self:
        """Of ``hf://organisation/model@commit``.

        Raises:
            ValueError: it is none.
        """
        found = _REPOSITORY.fullmatch(path)
        if found is None:
            raise ValueError(
                f"{path[:300]!a} is no repository at a commit: write hf://organisation/model@ and 40 hexadecimal digits"
            )
        return cls(found[1], found[2])

    def __str__(self) -> str:
        """As messages have it, by the field of a MoEDeployment."""
        return f"huggingFace.repo {self.name}"

    @property
    def directory(self) -> str:
        """Name of its directory in a cache."""
        return f"{self.name.replace('/', '--')}--{self.revision}"


@dataclass(frozen=True, slots=True)
class Folder:
    """On a web server or in an object store, with a file ``SHA256SUMS`` that has the checksum of each other file.

    Attributes:
        url: ``https://…`` or ``s3://bucket/…``, without a slash at its end.
        sha256: of ``SHA256SUMS``, so that one number says what each file is.
        endpoint: of ``s3://``: where the store answers, ``https://…`` or ``http://…``.
    """

    url: str
    sha256: str
    endpoint: str = ""

    @classmethod
    def parse(cls, path: str) -> Self:
        """Of ``https://…#sha256=…`` or ``s3://…#sha256=…&endpoint=…``.

        Raises:
            ValueError: it is none.
        """
        found = _FOLDER.fullmatch(path)
        said = dict(parse_qsl(found[2])) if found else {}
        sha256, endpoint = said.get("sha256", ""), said.get("endpoint", "")
        if found is None or not _SHA256.fullmatch(sha256):
            raise ValueError(f"{path[:300]!a} is no folder with a checksum: write {_EXAMPLE}")
        if found[1].startswith("s3:") != endpoint.startswith(("https://", "http://")):
            raise ValueError(f"{path[:300]!a}: s3:// needs an endpoint, and https:// has none: write {_EXAMPLE}")
        return cls(found[1], sha256, endpoint.rstrip("/"))

    def __str__(self) -> str:
        """As messages have it, by the field of a MoEDeployment."""
        return f"download.url {self.url}"

    @property
    def directory(self) -> str:
        """Name of its directory in a cache: by what is in it."""
        return f"sha256-{self.sha256}"

    @property
    def bucket(self) -> str:
        """Of ``s3://``."""
        return urlsplit(self.url).netloc

    @property
    def region(self) -> str:
        """For whom requests are signed: as the endpoint names it, such as ``s3.eu-central-1.amazonaws.com``."""
        found = _REGION.fullmatch(urlsplit(self.endpoint).hostname or "")
        return found[1] if found else "us-east-1"

    def key(self, name: str) -> str:
        """Of an object of ``s3://``."""
        return f"{unquote(urlsplit(self.url).path).strip('/')}/{name}".lstrip("/")

    def address(self, name: str) -> str:
        """Where one file is, without a signature."""
        if self.endpoint:
            return f"{self.endpoint}/{self.bucket}/{quote(self.key(name))}"
        return f"{self.url}/{quote(name)}"


_EXAMPLE = "https://… or s3://…, and #sha256=<that of its SHA256SUMS>, with s3:// &endpoint=https://…"

Source = Repository | Folder


def source_of(path: str) -> Source | None:
    """None of a path of a directory.

    Raises:
        ValueError: it begins like a source and is none.
    """
    if path.startswith("hf://"):
        return Repository.parse(path)
    return Folder.parse(path) if path.startswith(("https://", "s3://")) else None
