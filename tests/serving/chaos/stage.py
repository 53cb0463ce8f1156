"""Two Ray nodes on this machine with one deployment across them, and blows to it that end when all is as before."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from chaos.verdict import Blow
from plane import Plane

from moe_contract.applications import API, ATTENTION, DIRECTORY, EXPERTS
from moe_dev.raylocal import LocalRay
from moe_serving.standalone.errors import StandaloneError

SHARDS = COPIES = APIS = REPLICAS = 2
WANTED = {API: APIS, ATTENTION: REPLICAS, DIRECTORY: 1, EXPERTS: SHARDS}
NODE = "node"
"""What is struck, beside the deployments: the second node with all that runs there."""
READY_S = 240.0
SECOND = "second"
"""A resource that the second node has."""


class Stage:
    """Each shard, api and attention replica has its node, so that the second one may go with all that is on it."""

    def __init__(self, ray: LocalRay, model: Path) -> None:
        self._ray = ray
        self._second = ray.add_node({SECOND: 1000})
        self._struck: Counter[str] = Counter()
        self.plane = Plane(ray, "chaos", model, copies=COPIES, apis=APIS, attention=REPLICAS)
        self.plane.amend = _spread
        self.plane.scale(SHARDS)
        self._wait_whole(gone=set())

    def strike(self, what: str, how: str) -> Blow:
        """Hit a process of the deployment ``what``, or ``NODE``, by the signal ``how``; returns when all is well.

        By turns it is the one on the first node, where Serve's proxy is, which sends all requests to the api beside it,
        and the other one.
        """
        running = [replica for replica in self.plane.replicas() if replica.state == "RUNNING"]
        home = {replica.node for replica in running if replica.application.endswith("experts-0")}
        if what == NODE:
            victims = [replica for replica in running if replica.node not in home]
        else:
            alike = sorted((r for r in running if r.deployment == what), key=lambda replica: replica.node not in home)
            victims = [alike[self._struck[what] % len(alike)]]
        self._struck[what] += 1
        at = time.monotonic()
        if what == NODE:
            self._second.kill()
            self._second = self._ray.add_node({SECOND: 1000})
        else:
            assert victims[0].pid is not None
            os.kill(victims[0].pid, signal.Signals[how])
        self._wait_whole(gone={replica.name for replica in victims})
        return Blow(at, time.monotonic(), frozenset(r.name for r in victims if r.deployment == API))

    def _wait_whole(self, gone: set[str]) -> None:
        """Until nothing of what was hit is left, and as much as before is there and ready."""
        end = time.monotonic() + READY_S
        while (missing := self._missing(gone)) is not None:
            assert time.monotonic() < end, f"waited {READY_S:.0f} s for {missing}; {self.plane.statuses()}"
            time.sleep(0.5)

    def _missing(self, gone: set[str]) -> str | None:
        try:
            replicas = self.plane.replicas()
        except StandaloneError as error:
            return str(error)
        if left := gone & {replica.name for replica in replicas}:
            return f"the end of {left}"
        if strange := [replica for replica in replicas if replica.state != "RUNNING"]:
            return f"{strange} to run"
        if Counter(replica.deployment for replica in replicas) != WANTED:
            return f"all of {WANTED}"
        report = self.plane.report()
        if report is None or not report.progress.settled or sum(r.ready for r in report.attention) != REPLICAS:
            return "the directory to know of all"
        if {shard.pid for shard in report.shards} != {r.pid for r in replicas if r.deployment == EXPERTS}:
            return "the directory to know of the new shard"
        return None


def _spread(application: dict[str, Any]) -> None:
    """Shard 0 stays on the first node, shard 1 on the second, and no two of the others' replicas on the same."""
    for deployment in application["deployments"]:
        if deployment["name"] in (API, ATTENTION):
            deployment["max_replicas_per_node"] = 1
        if application["name"].endswith("experts-1"):
            deployment["ray_actor_options"] = {"num_cpus": 0, "resources": {SECOND: 1}}
        if application["name"].endswith("experts-0") or deployment["name"] == DIRECTORY:
            deployment["ray_actor_options"] = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}


def kinds() -> list[tuple[str, str]]:
    """All blows: deployment or node, and signal."""
    deployments = [(what, how) for what in (EXPERTS, ATTENTION, DIRECTORY, API) for how in ("SIGKILL", "SIGSTOP")]
    return [*deployments, (NODE, "SIGKILL")]
