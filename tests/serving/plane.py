"""A data plane on the Ray of the tests, told what to do as the operator would tell it."""

from __future__ import annotations

import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_contract.applications import (
    API_REQUESTS,
    ATTENTION_REQUESTS,
    ApiConfig,
    AttentionConfig,
    DirectoryConfig,
    Dtype,
    ModelArgs,
    Network,
    ReplicaScale,
    ShardRef,
    key_digest,
    key_digests,
    shard_application_name,
)
from moe_contract.base import CONTRACT
from moe_contract.rendering import Desired, render
from moe_contract.report import CONTRACT_HEADER, INTERNAL_REPORT_PATH, INTERNAL_STATISTICS_PATH, DirectoryReport
from moe_contract.serve.merge import Change
from moe_dev.raylocal import LocalRay
from moe_placement import Placement, balanced_placement
from moe_placement.encoding import encode_placement
from moe_placement.statistics import RoutingStatistics, decode_statistics, encode_statistics
from moe_serving.checkpoint import inspect_model
from moe_serving.standalone.serve_rest import ServeRest

WAIT_S = 240.0
"""For anything that starts processes; two busy cores are slow."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A process in Serve's words; ``pid`` and ``node`` are None until it runs."""

    application: str
    deployment: str
    name: str
    pid: int | None
    node: str | None
    state: str


class Plane:
    """One deployment. Every change is a PUT of what should be, as Serve wants it.

    Attributes:
        api_key: what clients must show.
        limits: of the attention replicas.
        spoilt: fields put into the ``user_config`` of deployments, by name, whatever they should be.
        amend: changes an application, as it would be given to Serve, where the test wants it otherwise.
    """

    def __init__(
        self,
        ray: LocalRay,
        name: str,
        model: Path,
        *,
        copies: int = 1,
        apis: int = 1,
        attention: int = 1,
        network: Network = "auto",
        verify: bool = False,
        dtype: Dtype = "float32",
    ) -> None:
        self.name = name
        self.url = f"{ray.serve_url}/{name}"
        self.api_key = secrets.token_hex(16)
        self.limits = AttentionConfig()
        self.spoilt: dict[str, dict[str, Any]] = {}
        self.amend: Callable[[dict[str, Any]], None] = lambda application: None
        self._rest = ServeRest(ray.dashboard_url, ray.token)
        self._internal_key = secrets.token_hex(16)
        self._args = ModelArgs(path=str(model), dtype=dtype, network=network, verify=verify)
        self._copies = copies
        self._apis = apis
        self._attention = attention
        self._revision = 0
        self._placement: Placement | None = None
        self._refs: tuple[ShardRef, ...] = ()
        self._deployed: set[str] = set()

    def deploy_core(self) -> None:
        """The core alone: no shard, no placement."""
        self._put()

    def scale(self, shards: int) -> None:
        """Run ``shards`` shards, as the operator would: copy, then take away. Waits until it is done."""
        facts = inspect_model(self._args.path, self._args.dtype)
        before = len(self._refs)
        names = [shard_application_name(self.name, index) for index in range(max(shards, before))]
        slots = [facts.experts if index < shards else 0 for index in range(len(names))]
        self._placement = balanced_placement(facts.layers, facts.experts, slots, self._copies, self._placement)
        self._refs = tuple(ShardRef(index=index, application=name) for index, name in enumerate(names))
        self._put(slots_per_shard=facts.experts)
        self.wait(lambda report: report.revision == self._revision and report.progress.settled, f"{shards} shards")
        if shards < before:
            self._refs = self._refs[:shards]
            kept = self._placement.slots[:, : facts.experts * shards]
            self._placement = Placement.of(kept, slots[:shards], facts.experts)
            self._put(slots_per_shard=facts.experts)

    def set_attention(self, limits: AttentionConfig | None = None, replicas: int | None = None) -> None:
        """Change the ``user_config`` or the number of the attention replicas, and nothing else."""
        self.limits = limits or self.limits
        self._attention = replicas or self._attention
        self.put_again()

    def put_again(self) -> None:
        """The same shards, with what else has changed."""
        self._put(slots_per_shard=self._placement.shard_slots[0] if self._placement else 0)

    def report(self) -> DirectoryReport | None:
        """What the operator would read; None while nothing answers."""
        body = self.get(INTERNAL_REPORT_PATH, self._internal_key)[1]
        try:
            return DirectoryReport.model_validate_json(body)
        except ValueError:
            return None

    def statistics(self) -> RoutingStatistics | None:
        """All that attention replicas gathered, as whoever plans would read it; None before they did."""
        headers = {"Authorization": f"Bearer {self._internal_key}"}
        request = urllib.request.Request(self.url + INTERNAL_STATISTICS_PATH, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            packed = answer.read()
        return decode_statistics(packed) if answer.status == 200 else None

    def hand_over(self, statistics: RoutingStatistics) -> None:
        """As the operator hands over those of a former cluster."""
        headers = {"Authorization": f"Bearer {self._internal_key}", "Content-Type": "application/octet-stream"}
        packed, url = encode_statistics(statistics), self.url + INTERNAL_STATISTICS_PATH
        with urllib.request.urlopen(urllib.request.Request(url, packed, headers, method="PUT"), timeout=30) as answer:
            assert answer.status == 204

    def wait_statistics(self) -> RoutingStatistics:
        """Until there are some: a window takes seconds."""
        end = time.monotonic() + WAIT_S
        while (found := self.statistics()) is None:
            assert time.monotonic() < end, f"waited {WAIT_S} s for statistics"
            time.sleep(0.2)
        return found

    def get(self, path: str, key: str | None = None) -> tuple[int, str]:
        """Status and body of a GET; 0 where nobody answers."""
        headers = {"Authorization": f"Bearer {key}", CONTRACT_HEADER: str(CONTRACT)} if key else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait(self, condition: Callable[[DirectoryReport], object], what: str) -> DirectoryReport:
        """Until a report satisfies ``condition``."""
        end = time.monotonic() + WAIT_S
        while True:
            report = self.report()
            if report is not None and condition(report):
                return report
            assert time.monotonic() < end, f"waited {WAIT_S} s for {what}; last report: {report}\n{self.statuses()}"
            time.sleep(0.2)

    def wait_ready(self) -> None:
        """Until the api says that it can answer."""
        end = time.monotonic() + WAIT_S
        while (answer := self.get("/healthz"))[0] != 200:
            assert time.monotonic() < end, f"waited {WAIT_S} s for it to be ready: {answer}\n{self.statuses()}"
            time.sleep(0.2)

    def pids(self) -> dict[str, set[int]]:
        """Processes of each deployment of each application, as Serve knows them; it does so once they have started."""
        return {
            f"{application}/{deployment}": {replica["pid"] for replica in state["replicas"] if "pid" in replica}
            for application, status in self._rest.status().items()
            if application in self._deployed
            for deployment, state in status["deployments"].items()
        }

    def replicas(self) -> list[Replica]:
        """All processes of all deployments, as Serve knows them."""
        return [
            Replica(application, deployment, each["replica_id"], each.get("pid"), each.get("node_id"), each["state"])
            for application, status in self._rest.status().items()
            if application in self._deployed
            for deployment, state in status["deployments"].items()
            for each in state["replicas"]
        ]

    def states(self, deployment: str) -> list[str]:
        """Of the replicas of a deployment of the core, in Serve's words, in alphabetical order."""
        return sorted(r["state"] for r in self._rest.status()[self.name]["deployments"][deployment]["replicas"])

    def wait_replaced(self, deployment: str, victim: int, replicas: int) -> None:
        """Until Serve has so many running replicas of a deployment of the core, and process ``victim`` is none."""
        end = time.monotonic() + WAIT_S
        while True:
            seen = self._rest.status()[self.name]["deployments"][deployment]["replicas"]
            states = {(replica.get("pid"), replica["state"]) for replica in seen}
            if [state for pid, state in states if pid != victim] == ["RUNNING"] * replicas == [s for _, s in states]:
                return
            assert time.monotonic() < end, f"waited {WAIT_S} s for another {deployment}: {states}"
            time.sleep(0.2)

    def statuses(self) -> dict[str, str]:
        """Of our applications, in Serve's words."""
        states = self._rest.status()
        return {name: f"{states[name]['status']} {states[name]['message']}" for name in self._deployed & states.keys()}

    def remove(self) -> None:
        self._rest.apply(Change(self.name, ()))
        self._deployed = set()

    def _put(self, slots_per_shard: int = 0) -> None:
        self._revision += 1
        applications = render(
            Desired(
                core=self.name,
                route_prefix=f"/{self.name}",
                model=self._args,
                api=ApiConfig(
                    served_name="tiny",
                    api_key_sha256=key_digests([self.api_key]),
                    internal_key_sha256=key_digest(self._internal_key),
                ),
                attention=self.limits,
                directory=DirectoryConfig(
                    term=1,
                    revision=self._revision,
                    shards=self._refs,
                    slots_per_shard=slots_per_shard,
                    min_copies=self._copies,
                    placement=encode_placement(self._placement) if self._placement else None,
                ),
                api_scale=ReplicaScale.fixed(self._apis, API_REQUESTS),
                attention_scale=ReplicaScale.fixed(self._attention, ATTENTION_REQUESTS),
            )
        )
        for deployment in (each for application in applications for each in application["deployments"]):
            deployment["user_config"] |= self.spoilt.get(deployment["name"], {})
        for application in applications:
            self.amend(application)
        conflict = self._rest.apply(Change(self.name, applications))
        assert conflict is None, conflict
        self._deployed = {application["name"] for application in applications}
