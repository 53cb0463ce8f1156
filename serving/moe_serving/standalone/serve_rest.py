"""The REST API of Ray's dashboard and of Serve, as far as ``moe-serve`` needs it."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from moe_serving.standalone.errors import StandaloneError

_TIMEOUT_S = 60.0

direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs past any HTTP proxy of the environment: all of this is on this machine."""


@dataclass(frozen=True, slots=True)
class ServeRest:
    """A Ray dashboard and the token it asks for; empty when it asks for none."""

    dashboard_url: str
    token: str

    def status(self) -> dict[str, Any]:
        """Of every application: ``{name: {"status": …, "message": …, "route_prefix": …, …}}``."""
        applications: dict[str, Any] = self._call("GET")["applications"]
        return applications

    def deploy(self, applications: list[dict[str, Any]], host: str, port: int) -> None:
        """Add these applications, or replace those of their names.

        ``host`` and ``port`` are where Serve answers HTTP if it does not run yet; it never moves after that.
        """
        state = self._call("GET")
        config = _top_level(state) or {"proxy_location": "HeadOnly", "http_options": {"host": host, "port": port}}
        others = _others(state, {application["name"] for application in applications})
        self._call("PUT", config | {"applications": [*others, *applications]})

    def remove(self, names: Collection[str]) -> None:
        """Remove these applications."""
        state = self._call("GET")
        self._call("PUT", _top_level(state) | {"applications": _others(state, names)})

    def http_address(self) -> tuple[str, int]:
        """Host and port where Serve answers HTTP."""
        options = self._call("GET")["http_options"]
        return options["host"], options["port"]

    def resources(self) -> list[dict[str, float]]:
        """What each live node has to hand out; a Ray that has just started knows of none yet."""
        found = self._call("GET", path="/api/v0/nodes")["data"]["result"]["result"]
        return [node["resources_total"] for node in found if node["state"] == "ALIVE"]

    def _call(self, method: str, body: dict[str, Any] | None = None, path: str = "/api/serve/applications/") -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(
            f"{self.dashboard_url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
            method=method,
        )
        try:
            with direct.open(request, timeout=_TIMEOUT_S) as response:
                raw = response.read()
        except urllib.error.HTTPError as error:
            raise StandaloneError(f"Ray Serve refused a {method}: {error}: {error.read().decode()[-2000:]}") from error
        except (OSError, http.client.HTTPException) as error:
            raise StandaloneError(f"Ray's dashboard at {self.dashboard_url} does not answer: {error}") from error
        return json.loads(raw) if raw else None


def _top_level(state: dict[str, Any]) -> dict[str, Any]:
    """What a PUT must repeat so that it stays as it is; empty before Serve runs."""
    if not state.get("proxy_location"):
        return {}
    names = ("proxy_location", "http_options", "grpc_options", "target_capacity")
    return {name: state[name] for name in names if state.get(name) is not None}


def _others(state: dict[str, Any], names: Collection[str]) -> list[dict[str, Any]]:
    """Everybody else's applications: a PUT deletes those that it does not name."""
    deployed = [app["deployed_app_config"] for name, app in state["applications"].items() if name not in names]
    return [config for config in deployed if config]
