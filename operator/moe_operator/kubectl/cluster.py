"""The objects of one namespace, by ``kubectl``: it finds the cluster, shows the credentials, whatever kind they are of,
and has the user's rights."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from moe_operator.api.names import GROUP
from moe_operator.kubectl.exits import (
    ChangedError,
    NotThereError,
    PluginError,
    RefusedError,
    RightError,
    TakenError,
    UnreachableError,
)
from moe_operator.kubectl.rights import missing
from moe_operator.text import on_one_line

Json: TypeAlias = dict[str, Any]

REQUEST_SECONDS = 20
"""Bound on one request of kubectl."""
CALL_SECONDS = 120.0
"""Bound on one kubectl: it may ask for a password, or a browser, before its first request."""
MOST_BYTES = 512 << 20
"""Bound on one answer: hundreds of the largest objects there can be."""
_COMPLAINT = 65536


class Cluster:
    """Reads and writes objects of our group; every method raises a ``PluginError``.

    Args:
        options: of kubectl: which namespace, context and kubeconfig.
        program: kubectl; the one in ``$PATH`` where none is named.
    """

    def __init__(self, options: Iterable[str] = (), program: str | None = None) -> None:
        self._options = (*options, f"--request-timeout={REQUEST_SECONDS}s")
        self._program = program or shutil.which("kubectl")

    def get(self, plural: str, name: str) -> Json:
        """One object. ``NotThereError``: there is none."""
        return self._object("get", _kind(plural), "-o", "json", "--", name)

    def list(self, plural: str) -> list[Json]:
        """All objects of the namespace."""
        items = self._object("get", _kind(plural), "-o", "json").get("items")
        return [each for each in items if isinstance(each, dict)] if isinstance(items, list) else []

    def patch(self, plural: str, name: str, patch: Mapping[str, Any]) -> Json:
        """Change the fields that ``patch`` names (RFC 7386). With a ``metadata.uid`` in it, that object and no other
        of its name, else ``ChangedError``."""
        arguments = ("--type=merge", f"--patch={json.dumps(patch)}", "-o", "json", "--", name)
        return self._object("patch", _kind(plural), *arguments)

    def create(self, body: Mapping[str, Any]) -> Json:
        """Create an object. ``TakenError``: there is one of that name."""
        return self._object("create", "-f", "-", "-o", "json", text=json.dumps(body))

    def delete(self, plural: str, name: str) -> None:
        """Ask for the deletion of an object, and do not wait for it."""
        self._run("delete", _kind(plural), "--wait=false", "--", name)

    def _object(self, *arguments: str, text: str | None = None) -> Json:
        output = self._run(*arguments, text=text)
        try:
            found = json.loads(output)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise PluginError(f"kubectl {arguments[0]}: the answer is no object: {_quoted(output)}")
        return found

    def _run(self, *arguments: str, text: str | None = None) -> bytes:
        if self._program is None:
            raise PluginError("there is no kubectl in $PATH, by which the cluster is asked: put it there")
        command = [self._program, arguments[0], *self._options, *arguments[1:]]
        with tempfile.TemporaryFile() as complaint:
            # Without a text kubectl has our own input: it may have to ask for a password.
            given = subprocess.PIPE if text is not None else None
            try:
                process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=complaint)
            except OSError as error:
                raise PluginError(f"{self._program} cannot be run: {error.strerror}") from error
            output, late = _talk(process, text)
            complaint.seek(0)
            said = complaint.read(_COMPLAINT).decode(errors="replace")
        if late:
            raise UnreachableError(f"kubectl {arguments[0]} did not end within {CALL_SECONDS:.0f} s")
        if len(output) > MOST_BYTES:
            raise PluginError(f"kubectl {arguments[0]}: the answer is larger than {MOST_BYTES >> 20} MB")
        if process.returncode != 0:
            raise failure(said)
        return output


def _talk(process: subprocess.Popen[bytes], text: str | None) -> tuple[bytes, bool]:
    """What the process answers, one byte more than may be at most, and whether it was ended since it took too long."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    limit = threading.Timer(CALL_SECONDS, end)
    limit.daemon = True
    limit.start()
    try:
        if text is not None and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin as given:
                given.write(text.encode())
        output = process.stdout.read(MOST_BYTES + 1) if process.stdout else b""
        if len(output) > MOST_BYTES:
            process.kill()
        process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        limit.cancel()
        if process.stdout:
            process.stdout.close()
    return output, late.is_set() and process.returncode != 0


_SERVER = re.compile(r"Error from server \((?P<reason>\w+)\): (?P<words>.*)", re.DOTALL)
_INVALID = re.compile(r'The \w+ "[^"]*" is invalid: ', re.DOTALL)
_NO_KIND = re.compile(
    r"the server doesn't have a resource type|no matches for kind|could not find the requested resource"
)
_UNREACHABLE = re.compile(
    r"The connection to the server .* was refused|Unable to connect to the server|couldn't get current server API group"
    r"|context deadline exceeded|i/o timeout|no such host|connection refused|Client\.Timeout"
    r"|Error from server: etcdserver"
)
_NOT_LET_IN = re.compile(r"You must be logged in to the server|getting credentials|Unauthorized")
_LOG_LINE = re.compile(r"[IWEF]\d{4} ")
_BUSY = frozenset({"Timeout", "ServerTimeout", "ServiceUnavailable", "TooManyRequests"})
_KINDS: dict[str, type[PluginError]] = {
    "Forbidden": RightError,
    "Unauthorized": RightError,
    "NotFound": NotThereError,
    "AlreadyExists": TakenError,
    "Conflict": ChangedError,
    "Invalid": RefusedError,
    "BadRequest": RefusedError,
    **dict.fromkeys(_BUSY, UnreachableError),
}
_INSTALL = (
    f"the cluster has no kinds of {GROUP}: install its CustomResourceDefinitions (kubectl apply -f crds/), or name "
    "another cluster with --context or --kubeconfig"
)


def failure(said: str) -> PluginError:
    """The error for what kubectl wrote when it failed."""
    lines = [line for line in said.strip().splitlines() if line.strip() and not _LOG_LINE.match(line)]
    words = _quoted("\n".join(lines).encode() or said.encode(), 2000)
    told = _SERVER.search(words)
    if _NO_KIND.search(words) and (told is None or told["reason"] == "NotFound"):
        return NotThereError(_INSTALL)
    if told:
        kind = _KINDS.get(told["reason"], PluginError)
        return kind(missing(told["words"]) if told["reason"] == "Forbidden" else told["words"])
    if _INVALID.search(words):
        return RefusedError(words)
    if _NOT_LET_IN.search(words):
        return RightError(f"the cluster does not let you in: {words}")
    if _UNREACHABLE.search(words):
        return UnreachableError(f"the cluster does not answer: {words}")
    return PluginError(words.removeprefix("error: ") or "kubectl failed and said nothing")


def _quoted(output: bytes, most: int = 200) -> str:
    text = on_one_line(output[: 4 * most].decode(errors="replace").strip().replace("\n", " "))
    return text if len(text) <= most else text[:most] + " …"


def _kind(plural: str) -> str:
    return f"{plural}.{GROUP}"
