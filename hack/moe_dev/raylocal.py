"""A Ray cluster of one node with Serve, for tests and the demo: all ports free ones, all of it on loopback.

It ends with the process that started it, and nothing here ever calls `ray stop`, which ends every Ray on the machine.
Token authentication is on: whoever reaches the dashboard could run code otherwise (CVE-2023-48022).
"""

import http
import http.client
import json
import os
import secrets
import shutil
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from moe_dev.kube import write_private
from moe_dev.paths import CLONE, short_private_directory
from moe_dev.processes import Guarded, HopelessError, ProcessError
from moe_dev.progress import say
from moe_dev.ray_waits import ray_gave_up
from moe_serving.standalone.ports import free_ports
from moe_serving.standalone.ray_head import (
    GRACE_S,
    OBJECT_STORE_BYTES,
    HeadPorts,
    driver_environment,
    head_command,
    node_environment,
    python_below,
)

READY_SECONDS = 120.0
# One call starts Serve's controller and proxy.
SERVE_START_SECONDS = 60.0
REFUSED = (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)


class LocalRay:
    """One running Ray node; `stop` or the end of the `with` block ends it and removes its files."""

    def __init__(
        self,
        cpus: int = 8,
        gpus: int = 0,
        dashboard_port: int | None = None,
        serve_port: int | None = None,
        log: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`cpus`, `gpus`: what Ray may hand out, whatever the machine has. Ports not given are free ones.

        `log`: where its output goes, if that is to be there when its files are gone.
        `variables`: more for the environment of all its processes, whose own `RAY_…` they do not inherit.
        """
        # Ray makes unix sockets below it, with some 60 bytes of names of its own.
        self.directory = short_private_directory()
        self.token = secrets.token_hex(32)
        self.log = log or self.directory / "ray.log"
        self.nodes: list[Guarded] = []
        """Those of ``add_node``, the dead ones too."""
        self._cpus, self._gpus = cpus, gpus
        self._variables = dict(variables or {})
        self._token_file = write_private(self.directory / "token", self.token)
        self._gcs_port, self._client_port, free_dashboard, free_serve = free_ports(4)
        self._dashboard_port = dashboard_port or free_dashboard
        self._serve_port = serve_port or free_serve
        # None until `up` has started it.
        self.process: Guarded | None = None

    @classmethod
    def start(cls, cpus: int = 8, gpus: int = 0, variables: Mapping[str, str] | None = None) -> Self:
        """Start one on free ports and wait until Serve answers; ProcessError says what did not.

        Where Ray gives up by itself, on a busy machine, another one is started, once.
        """
        try:
            return cls._started(cpus, gpus, variables)
        except ProcessError as error:
            if not ray_gave_up(str(error)):
                raise
        say("Ray gave up waiting for its node; starting another one")
        return cls._started(cpus, gpus, variables)

    @classmethod
    def _started(cls, cpus: int, gpus: int, variables: Mapping[str, str] | None) -> Self:
        ray = cls(cpus, gpus, variables=variables)
        try:
            ray.up()
        except BaseException:
            ray.stop()
            raise
        return ray

    def up(self) -> None:
        """Start it and wait; `stop`, from another thread too, makes this fail at once."""
        self._start_serve(self._start_node())

    @property
    def address(self) -> str:
        """Where drivers connect."""
        return f"127.0.0.1:{self._gcs_port}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self._dashboard_port}"

    @property
    def serve_url(self) -> str:
        return f"http://127.0.0.1:{self._serve_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a driver of this cluster needs in its environment."""
        return {"RAY_ADDRESS": self.address, **driver_environment(self._token_file)}

    def add_node(self, resources: Mapping[str, float]) -> Guarded:
        """One more node of the same cluster, on this machine; its `kill` is what the death of a machine is to Ray.

        It may not be there yet for Ray's scheduler when this returns; what asks for its `resources` waits for it.
        """
        command = [
            str(python_below(self.directory)),
            "-m",
            "moe_dev.ray_worker_node",
            self.address,
            str(self._cpus),
            json.dumps(dict(resources)),
            str(OBJECT_STORE_BYTES),
        ]
        node = Guarded.start(
            "a second Ray node",
            command,
            self.directory / f"node-{len(self.nodes)}.log",
            environment=self._node_variables() | {"PYTHONPATH": str(Path(__file__).parents[1])},
            directory=CLONE,
            grace=GRACE_S,
        )
        self.nodes.append(node)
        return node

    def stop(self) -> None:
        """End every process of this cluster and remove its files; does nothing the second time."""
        for node in self.nodes:
            node.stop()
        if self.process is not None:
            self.process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_node(self) -> Guarded:
        ports = HeadPorts(self._gcs_port, self._dashboard_port, self._client_port)
        command = head_command(self.directory, ports, f"--num-cpus={self._cpus}", f"--num-gpus={self._gpus}")
        # Its working directory becomes that of the replicas: a model's path may be relative to the clone.
        self.process = Guarded.start(
            "ray",
            command,
            self.log,
            environment=self._node_variables(),
            directory=CLONE,
            grace=GRACE_S,
            remove=self.directory,
        )
        self.process.wait_until(f"Ray's dashboard at {self.dashboard_url}", self._no_dashboard, READY_SECONDS)
        return self.process

    def _node_variables(self) -> dict[str, str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return variables | node_environment(self._token_file) | self._variables

    def _start_serve(self, process: Guarded) -> None:
        process.wait_until("Ray to take a Serve configuration", self._no_configuration, READY_SECONDS)
        process.wait_until(f"Serve at {self.serve_url}", self._no_serve, READY_SECONDS)

    def _no_configuration(self) -> str | None:
        # Serve takes its HTTP address from the first configuration it ever sees, and never again.
        options = {"host": "127.0.0.1", "port": self._serve_port}
        config = {"proxy_location": "HeadOnly", "http_options": options, "applications": []}
        request = urllib.request.Request(
            f"{self.dashboard_url}/api/serve/applications/",
            data=json.dumps(config).encode(),
            headers={"Content-Type": "application/json"},
            method="PUT",
        )
        # The dashboard answers before its Serve part does, which on a busy machine drops the first request or two.
        return self._refusal(request, SERVE_START_SECONDS)

    def _no_dashboard(self) -> str | None:
        return self._refusal(urllib.request.Request(f"{self.dashboard_url}/api/version"))

    def _no_serve(self) -> str | None:
        # Before the first application the proxy calls itself unhealthy (503): that it answers is what counts.
        request = urllib.request.Request(f"{self.serve_url}/-/healthz")
        return self._refusal(request, accepted=(http.HTTPStatus.SERVICE_UNAVAILABLE,))

    def _refusal(
        self, request: urllib.request.Request, timeout: float = 5.0, accepted: Collection[int] = ()
    ) -> str | None:
        """Why a request did not succeed, with 200 or one of `accepted`; None when it did, HopelessError: never will."""
        request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout):
                return None
        except urllib.error.HTTPError as error:
            with error:
                if error.code in accepted:
                    return None
                said = f"{error}: {error.read().decode(errors='replace')}"
            if error.code in REFUSED:
                raise HopelessError(f"{request.full_url} refuses the token: {said}") from None
            return said
        except (OSError, http.client.HTTPException) as error:
            return str(error)
