"""Objects in memory as ``kubectl moe`` reads and writes them; ``faults`` are raised in place of what a call does."""

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from merge_patch import merged

from moe_operator.kubectl.cluster import Cluster, Json
from moe_operator.kubectl.commands.common import Request
from moe_operator.kubectl.exits import NotThereError, PluginError, TakenError
from moe_operator.kubectl.terminal import Terminal

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CREATED = "2026-01-02T03:00:05Z"
LAYERS = ("0 1 - 2 3 0", "3 2 1 0 - -")


class FakeCluster(Cluster):
    """Attributes:
    faults: by verb, what is raised at its next calls.
    done: verbs of the writes, in order.
    """

    def __init__(self, *objects: Json) -> None:
        self.objects = {_key(each): each for each in objects}
        self.faults: dict[str, list[PluginError]] = {}
        self.done: list[str] = []

    def get(self, plural: str, name: str) -> Json:
        self._fail("get")
        try:
            return copy.deepcopy(self.objects[plural, name])
        except KeyError:
            raise NotThereError(f'{plural} "{name}" not found') from None

    def list(self, plural: str) -> list[Json]:
        self._fail("list")
        return [copy.deepcopy(each) for (kind, _), each in self.objects.items() if kind == plural]

    def patch(self, plural: str, name: str, patch: Mapping[str, Any]) -> Json:
        self._fail("patch")
        self.done.append("patch")
        self.objects[plural, name] = merged(self.get(plural, name), patch)
        return self.get(plural, name)

    def create(self, body: Mapping[str, Any]) -> Json:
        self._fail("create")
        self.done.append("create")
        if _key(body) in self.objects:
            raise TakenError("it exists")
        metadata = {**body["metadata"], "uid": "u-new", "creationTimestamp": CREATED}
        self.objects[_key(body)] = {**copy.deepcopy(dict(body)), "metadata": metadata}
        return copy.deepcopy(self.objects[_key(body)])

    def delete(self, plural: str, name: str) -> None:
        self._fail("delete")
        self.done.append("delete")
        del self.objects[plural, name]

    def _fail(self, verb: str) -> None:
        if self.faults.get(verb):
            raise self.faults[verb].pop(0)


def moe(revision: int = 3, name: str = "tiny", **status: Any) -> Json:
    """A MoEDeployment that runs a revision on 2 shards of 3 slots."""
    told = {
        "shards": 2,
        "readyShards": 2,
        "slotsPerShard": 3,
        "url": "http://127.0.0.1:8000/team/tiny/v1",
        "model": {"digest": "sha256:0"},
        "placement": {"revision": revision, "epoch": 7, "balance": "0.91", "fanOut": "1.30"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Available", "message": "all answer"}],
    }
    return {
        "kind": "MoEDeployment",
        "metadata": {"name": name, "namespace": "team", "uid": "u-1", "resourceVersion": "5"},
        "spec": {"experts": {"shards": 2}},
        "status": told | status,
    }


def xp(revision: int, phase: str | None = "Superseded", decision: str = "Approved", **fields: Any) -> Json:
    """An ExpertPlacement of ``tiny``; ``fields`` of its content, ``status`` and ``deployment`` apart."""
    status, deployment = fields.pop("status", {}), fields.pop("deployment", "tiny")
    content = {
        "revision": revision,
        "baseRevision": revision - 1,
        "modelDigest": "sha256:0",
        "experts": 4,
        "shards": 2,
        "slotsPerShard": 3,
        "layers": list(LAYERS),
    }
    metadata = {"name": f"{deployment}-r{revision}", "namespace": "team", "uid": f"u-{revision}"}
    return {
        "kind": "ExpertPlacement",
        "metadata": metadata | {"creationTimestamp": CREATED},
        "spec": {"deploymentRef": {"name": deployment}, "decision": decision, "content": content | fields},
        "status": ({"phase": phase} if phase else {}) | status,
    }


def request(cluster: FakeCluster, *revisions: str, name: str = "tiny", width: int = 100, **more: Any) -> Request:
    """What ``kubectl moe COMMAND tiny REVISIONS`` asks."""
    return Request(cluster, Terminal(width), NOW, name, revisions, **more)


def _key(body: Mapping[str, Any]) -> tuple[str, str]:
    plural = {"MoEDeployment": "moedeployments", "ExpertPlacement": "expertplacements"}[body["kind"]]
    return plural, body["metadata"]["name"]
