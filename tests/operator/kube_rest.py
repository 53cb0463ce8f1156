"""The API server over a connection that stays, for what tests do often: a kubectl costs 60 ms of CPU each time."""

import base64
import functools
import json
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import urllib3

ANSWER_SECONDS = 60.0


class Rest:
    """Requests by the user of a kubeconfig that this repository has written: JSON, with its keys or a token in it."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        tls = ssl.create_default_context(cadata=_decoded(cluster, "certificate-authority-data"))
        if "client-key-data" in user:
            with TemporaryDirectory() as folder:
                pair = Path(folder) / "pair.pem"  # 0700 is what is around it
                pair.write_text(_decoded(user, "client-certificate-data") + _decoded(user, "client-key-data"))
                tls.load_cert_chain(pair)
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._server = cluster["server"]
        self._pool = urllib3.PoolManager(ssl_context=tls, timeout=ANSWER_SECONDS, headers=headers)

    def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """The object or list at a path of the API; None where there is no object of that name."""
        answer = self._pool.request("GET", self._server + path, fields=query)
        if answer.status == 404 and "name" in answer.json().get("details", {}):
            return None
        return _accepted("GET", path, answer)

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The object as it was made in the collection at a path."""
        return _accepted("POST", path, self._pool.request("POST", self._server + path, json=body))

    def delete(self, path: str, missing_ok: bool = False) -> None:
        """Ask for the deletion of an object and do not wait."""
        answer = self._pool.request("DELETE", self._server + path)
        if not (missing_ok and answer.status == 404):
            _accepted("DELETE", path, answer)

    def merge(self, path: str, patch: dict[str, Any], missing_ok: bool = False) -> None:
        """Apply a merge patch to an object."""
        kind = {**self._pool.headers, "Content-Type": "application/merge-patch+json"}
        answer = self._pool.request("PATCH", self._server + path, json=patch, headers=kind)
        if not (missing_ok and answer.status == 404):
            _accepted("PATCH", path, answer)


@functools.cache
def rest(kubeconfig: Path) -> Rest:
    """The same one for all who ask with a kubeconfig."""
    return Rest(kubeconfig)


@contextmanager
def fresh_namespace(kubeconfig: Path) -> Iterator[str]:
    """Its deletion is asked for at the end and not waited for."""
    name, namespaces = f"test-{secrets.token_hex(4)}", "/api/v1/namespaces"
    rest(kubeconfig).create(namespaces, {"metadata": {"name": name}})
    yield name
    rest(kubeconfig).delete(f"{namespaces}/{name}")


def _accepted(verb: str, path: str, answer: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    assert answer.status in (200, 201, 202), f"{verb} {path}: {answer.status} {answer.data.decode()[:500]}"
    found: dict[str, Any] = answer.json()
    return found


def _decoded(fields: dict[str, str], name: str) -> str:
    return base64.b64decode(fields[name]).decode()
