"""What a deployment shall run, as Serve is told it. Pure."""

from __future__ import annotations

from collections.abc import Collection

from moe_contract.rendering import Desired, render
from moe_contract.serve.merge import Change, Config
from moe_operator.api import MoEDeployment
from moe_operator.endpoint import HttpUrl
from moe_operator.runtimes.port import core_name

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def change_of(moe: MoEDeployment, desired: Desired | None, without: Collection[str] = ()) -> Change:
    """All of a deployment, as one change of what Serve runs."""
    applications = render(desired) if desired else ()
    kept = tuple(application for application in applications if application["name"] not in without)
    return Change(core_name(moe), kept, serve_http_options(moe))


def serve_http_options(moe: MoEDeployment) -> Config | None:
    """With what to start Serve on a Ray cluster where it does not run yet.

    Serve's default is all interfaces. Where the deployment reaches it on loopback, Ray is on this machine, and the API
    must not be open to the network unasked; elsewhere the address may be a proxy's, and the default stays.
    """
    serve = HttpUrl.parse(moe.ray_cluster.serve_url).endpoint
    if serve.host not in _LOOPBACK:
        return None
    return {"host": "127.0.0.1" if serve.host == "localhost" else serve.host, "port": serve.port}
