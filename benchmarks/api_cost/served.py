"""The api as a deployment of Serve with the stand-in behind it; asked by way of Serve's proxy, or past it."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
from ray.serve import Application

from benchmarks.api_cost.place import OURS, PROXY, Place
from benchmarks.api_cost.stand_in import MODEL, NETWORK, ROOT, SERVED_NAME, Directory, Engine, text_ids
from benchmarks.idle import kind_of
from moe_contract.applications import API, ATTENTION, DIRECTORY, CoreArgs, ModelArgs
from moe_contract.serve.merge import Change
from moe_dev.raylocal import LocalRay
from moe_serving.serve.builder import bind_api, deployment
from moe_serving.serve.direct import Direct, open_here
from moe_serving.standalone.ports import free_ports
from moe_serving.standalone.serve_rest import ServeRest
from moe_serving.wire.endpoint import Address

NAME = "cost"
BEHIND_PROXY, DIRECT = "proxy", "direct"
READY_S = 120.0
KINDS: Mapping[str, str] = {OURS: "api", PROXY: "Serve's proxies"}
"""What ``benchmarks.idle`` calls these processes."""


@contextmanager
def opened(fronts: Sequence[str], variables: Mapping[str, str]) -> Iterator[dict[str, Place]]:
    """One api on one Ray, by each of ``fronts``: ``BEHIND_PROXY``, ``DIRECT``. With direct ingress Serve's proxy goes
    on as it is without. ``variables``: more for the environment of that Ray.

    Raises:
        RuntimeError: Serve did not run it within two minutes.
    """
    (port,) = free_ports(1)
    with LocalRay.start(variables={**_variables(port, DIRECT in fronts), **variables}) as ray:
        _deploy(ServeRest(ray.dashboard_url, ray.token))
        urls = {BEHIND_PROXY: ray.serve_url, DIRECT: f"http://127.0.0.1:{port}"}
        for front in fronts:
            _wait_for(f"{urls[front]}/healthz")
        passed = {BEHIND_PROXY: (OURS, PROXY), DIRECT: (OURS,)}
        yield {front: Place(f"{urls[front]}/v1", {each: _pid_of(each) for each in passed[front]}) for front in fronts}


def _variables(port: int, direct: bool) -> dict[str, str]:
    """``PYTHONPATH`` has Serve find this module."""
    if not direct:
        return {"PYTHONPATH": str(ROOT)}
    return {
        "PYTHONPATH": str(ROOT),
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),
    }


def _deploy(rest: ServeRest) -> None:
    application = {
        "name": NAME,
        "route_prefix": "/",
        "import_path": f"{__name__}:build",
        "args": CoreArgs(application=NAME, model=ModelArgs(path=str(MODEL), network=NETWORK)).model_dump(),
        "deployments": [{"name": API, "user_config": {"served_name": SERVED_NAME}}],
    }
    rest.apply(Change(NAME, (application,)))


def build(args: dict[str, Any]) -> Application:
    """For Serve: the real api, before what stands in for all else."""
    attention, directory = deployment(_Attention, ATTENTION).bind(), deployment(_Directory, DIRECTORY).bind()
    return bind_api(CoreArgs.model_validate(args), attention, directory)


class _Directory:
    def __init__(self) -> None:
        self._direct = Direct(open_here(NETWORK), {"exchange": Directory().exchange})

    async def address(self) -> Address:
        return await self._direct.address()


class _Attention:
    def __init__(self) -> None:
        import ray  # noqa: PLC0415 - by its name alone, Serve pickles a class with all that its module has

        self._engine = Engine(ray.get_runtime_context().get_node_id(), text_ids())

    async def generate(self, *asked: Any) -> None:
        await self._engine.generate(*asked)


def _wait_for(url: str) -> None:
    end = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > end:
                raise RuntimeError(f"waited {READY_S:g} s for {url}: {error}") from error
            time.sleep(0.2)


def _pid_of(name: str) -> int:
    (pid,) = [
        each.pid
        for each in psutil.Process().children(recursive=True)
        if kind_of(" ".join(each.cmdline())) == KINDS[name]
    ]
    return pid
