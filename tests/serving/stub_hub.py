"""A hub on loopback: one repository, its files from a directory, and what may be wrong with a hub."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stub_server import Handler, serving, sha256_of, spoilt

REPOSITORY = "team/tiny"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class StubHub:
    """Attributes:
    files: what the repository has, by name.
    token: asked for when set; without it the repository is gated.
    wrong: files of which other bytes come than were told, once each.
    cut: files whose connection breaks in the middle, once each.
    gets: how often each file was sent, whole or from somewhere on; parts: how often some bytes from its middle.
    spoilt: files of which other parts come than of the whole. whole: no parts can be had here.
    partless: the status that requests for parts are answered with, if set. failing: as many of them, with 503.
    """

    files: dict[str, bytes]
    token: str | None = None
    wrong: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    gets: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    spoilt: set[str] = field(default_factory=set)
    whole: bool = False
    partless: int = 0
    failing: int = 0
    url: str = ""

    def told(self) -> dict[str, Any]:
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "blobId": "0" * 40,
                **({"lfs": self._lfs(content)} if name.endswith(".safetensors") else {}),
            }
            for name, content in self.files.items()
        ]
        return {"id": REPOSITORY, "sha": REVISION, "siblings": siblings}

    @staticmethod
    def _lfs(content: bytes) -> dict[str, Any]:
        return {"size": len(content), "sha256": sha256_of(content), "pointerSize": 134}


def files_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


@contextmanager
def running(hub: StubHub) -> Iterator[StubHub]:
    with serving(_handler(hub)) as port:
        hub.url = f"http://127.0.0.1:{port}"
        yield hub


def _handler(hub: StubHub) -> type[Handler]:
    class Answering(Handler):
        def answer(self) -> None:
            info, files = f"/api/models/{REPOSITORY}/revision/", f"/{REPOSITORY}/resolve/"
            path = self.path.partition("?")[0]
            if not path.startswith((info, files)):
                return self._refuse(404, "RepoNotFound")
            revision, _, name = path.removeprefix(info).removeprefix(files).partition("/")
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._refuse(403, "GatedRepo")
            if revision != REVISION:
                return self._refuse(404, "RevisionNotFound")
            if path.startswith(info):
                return self._send(json.dumps(hub.told()).encode())
            if name not in hub.files:
                return self._refuse(404, "EntryNotFound")
            return self._send_file(name)

        def _send_file(self, name: str) -> None:
            content = hub.files[name]
            etag = sha256_of(content)
            if self.command == "HEAD":
                return self._send(content, etag)
            if self.end is not None and hub.partless:
                return self._refuse(hub.partless, "")
            if self.end is not None and hub.failing:
                hub.failing -= 1
                return self._refuse(503, "")
            if self.end is not None and not hub.whole:
                return self._send_part(name, content, self.end)
            if self.end is not None:
                return self._send(content, etag)
            hub.gets[name] += 1
            if name in hub.wrong:
                hub.wrong.remove(name)
                content = spoilt(content)
            if name in hub.cut:
                hub.cut.remove(name)
                return self._send(content, etag, self.first, end=len(content) // 2)
            return self._send(content, etag, self.first)

        def _send_part(self, name: str, content: bytes, end: int) -> None:
            hub.parts[name] += 1
            part = content[self.first : end]
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Content-Range", f"bytes {self.first}-{end - 1}/{len(content)}")
            self.end_headers()
            self.wfile.write(part[:-1] + bytes([part[-1] ^ 1]) if name in hub.spoilt else part)
            self.close_connection = True

        def _send(self, content: bytes, etag: str = "e", first: int = 0, end: int | None = None) -> None:
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(content) - first))
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[first:end])
            self.close_connection = True

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "no")
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Answering
