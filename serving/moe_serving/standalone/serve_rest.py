"""The REST API of Ray's dashboard and of Serve, as far as ``moe-serve`` needs it."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from moe_contract.serve.merge import Change, Conflict, body, merge
from moe_contract.serve.state import ServeState, read_state
from moe_serving.standalone.errors import StandaloneError

_TIMEOUT_S = 60.0
_APPLICATIONS = "/api/serve/applications/"

direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs past any HTTP proxy of the environment: all of this is on this machine."""


@dataclass(frozen=True, slots=True)
class ServeRest:
    """A Ray dashboard and the token it asks for; empty when it asks for none."""

    dashboard_url: str
    token: str

    def status(self) -> dict[str, Any]:
        """Of every application, in Serve's words: ``{name: {"status": …, "message": …, "deployments": …, …}}``."""
        applications: dict[str, Any] = json.loads(self._call("GET", _APPLICATIONS))["applications"]
        return applications

    def state(self) -> ServeState:
        """What runs, as ours are merged into it."""
        try:
            return read_state(self._call("GET", _APPLICATIONS))
        except ValueError as error:
            raise StandaloneError(f"what Ray's dashboard at {self.dashboard_url} answers is no use: {error}") from error

    def apply(self, change: Change) -> Conflict | None:
        """Have a deployment run what ``change`` says, and leave all others as they are; tells why it cannot, if so."""
        state = self.state()
        merged = merge(state, [change])
        if merged.changed:
            self._call("PUT", _APPLICATIONS, body(state, merged.applications, [change]).encode())
        return merged.conflicts.get(change.core)

    def http_address(self) -> tuple[str, int]:
        """Host and port where Serve answers HTTP."""
        options = self.state().options["http_options"]
        return options["host"], options["port"]

    def resources(self) -> list[dict[str, float]]:
        """What each live node has to hand out; a Ray that has just started knows of none yet."""
        found = json.loads(self._call("GET", "/api/v0/nodes"))["data"]["result"]["result"]
        return [node["resources_total"] for node in found if node["state"] == "ALIVE"]

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(f"{self.dashboard_url}{path}", data=body, headers=headers, method=method)
        try:
            with direct.open(request, timeout=_TIMEOUT_S) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            raise StandaloneError(f"Ray Serve refused a {method}: {error}: {error.read().decode()[-2000:]}") from error
        except (OSError, http.client.HTTPException) as error:
            raise StandaloneError(f"Ray's dashboard at {self.dashboard_url} does not answer: {error}") from error
