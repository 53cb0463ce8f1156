"""Writes an image as an archive that `ctr images import` reads: the OCI image layout in a tar file."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MEDIA = "application/vnd.oci.image"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class File:
    """One file of a layer; a symbolic link where `link` is given."""

    content: bytes = b""
    mode: int = 0o755
    link: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """What a container of it starts; `name` with a tag."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""


def write_layer(path: Path, files: Mapping[str, File]) -> Path:
    """A tar file of `files` {absolute path: file}, owned by root."""
    with tarfile.open(path, "w") as archive:
        for name, file in files.items():
            entry = tarfile.TarInfo(name.removeprefix("/"))
            entry.mode = file.mode
            if file.link:
                entry.type, entry.linkname = tarfile.SYMTYPE, file.link
            else:
                entry.size = len(file.content)
            archive.addfile(entry, io.BytesIO(file.content))
    return path


def write_image(path: Path, image: Image, layers: Sequence[Path]) -> Path:
    """`layers`: tar files, the lowest first."""
    digests = [_digest_of(layer) for layer in layers]
    config = _encoded(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in {"PATH": PATH, **image.environment}.items()],
                "Cmd": list(image.command),
                "User": image.user,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": digests},
        }
    )
    described = [
        {"mediaType": f"{_MEDIA}.layer.v1.tar", "digest": digest, "size": layer.stat().st_size}
        for digest, layer in zip(digests, layers, strict=True)
    ]
    manifest = _encoded(
        {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": _described(f"{_MEDIA}.config.v1+json", config),
            "layers": described,
        }
    )
    tag = image.name.rpartition(":")[2]
    names = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag}
    index = {
        "schemaVersion": 2,
        "manifests": [_described(f"{_MEDIA}.manifest.v1+json", manifest) | {"annotations": names}],
    }
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(archive, "index.json", _encoded(index))
        for blob in (manifest, config):
            _add(archive, _place(_digest(blob)), blob)
        for digest, layer in zip(digests, layers, strict=True):
            archive.add(layer, arcname=_place(digest))
    return path


def _described(media: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media, "digest": _digest(blob), "size": len(blob)}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _digest_of(path: Path) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode()
