"""Whole lives of MoEDeployments: a real API server and operator process, and a Ray whose faults the test decides."""

import contextlib
import copy
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fake_ray import FakeDirectory, FakeRay, JsonObject
from kstatus import kstatus
from kube_rest import rest
from moe_objects import REMOVED, TOLD, Objects

from moe_contract.model import ModelProblem
from moe_dev.kube import Kubectl, KubectlError
from moe_dev.operator_process import OperatorProcess
from moe_operator.api.names import ANNOTATION_DRAIN

pytestmark = pytest.mark.e2e


def status_writes(kube: Kubectl) -> float:
    """So far, as the API server counts them, of all MoEDeployments."""
    wanted = ('resource="moedeployments"', 'subresource="status"', 'verb="PUT"')
    lines = kube.run("get", "--raw", "/metrics").splitlines()
    found = [line for line in lines if line.startswith("apiserver_request_total{") and all(w in line for w in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_from_apply_to_delete(operator, objects, ray: FakeRay) -> None:
    writes = status_writes(objects.kube)
    objects.apply("tiny", ray.spec())
    objects.wait_ready("tiny")
    writes = status_writes(objects.kube) - writes
    print(f"{writes:.0f} status writes from apply to Ready")
    assert 0 < writes <= 15
    objects.wait("it to be current for kstatus", lambda: kstatus(objects.get("tiny")) == "Current")
    assert ray.runs(objects.namespace) == ["core", "experts-0", "experts-1"]
    status = objects.status("tiny")
    assert (status["shards"], status["readyShards"], status["slotsPerShard"]) == (2, 2, 8)
    assert status["model"]["experts"] == 16
    assert status["placement"]["revision"] == 1

    objects.scale("tiny", 4)
    objects.wait_settled("tiny", 2)
    assert ray.runs(objects.namespace) == ["core", "experts-0", "experts-1", "experts-2", "experts-3"]
    objects.annotate("tiny", f"{ANNOTATION_DRAIN}=1,2,3")
    objects.wait_condition("tiny", "Drained", "False", "DrainRefused")
    objects.annotate("tiny", f"{ANNOTATION_DRAIN}=1,3")
    objects.wait_condition("tiny", "Drained", "True", "Drained")
    assert objects.status("tiny")["readyShards"] == 2
    objects.annotate("tiny", f"{ANNOTATION_DRAIN}-")
    objects.wait("the drain to be forgotten", lambda: not objects.condition("tiny", "Drained"))
    with pytest.raises(KubectlError, match="1 x 8 = 8 slots per layer, and 16 experts"):
        objects.scale("tiny", 1)
    objects.scale("tiny", 2)
    objects.wait_settled("tiny", 3)
    assert ray.runs(objects.namespace) == ["core", "experts-0", "experts-1"]
    assert objects.status("tiny")["placement"]["revision"] == 6

    objects.patch("tiny", '{"spec": {"suspend": true, "experts": {"shards": 3}}}')
    objects.wait_condition("tiny", "Progressing", "False", "Suspended")
    assert objects.condition("tiny", "Ready")["status"] == "True"
    assert ray.runs(objects.namespace) == ["core", "experts-0", "experts-1"]

    objects.patch("tiny", '{"spec": {"suspend": false, "experts": {"shards": 0}}}')
    objects.wait_condition("tiny", "Ready", "True", "Asleep")
    assert ray.runs(objects.namespace) == []
    objects.wait("no finalizer while asleep", lambda: not objects.get("tiny")["metadata"].get("finalizers"))
    assert kstatus(objects.get("tiny")) == "Current"
    # As autoscalers wake: to one, though one shard of 8 slots cannot hold 16 experts.
    objects.scale("tiny", 1)
    objects.wait_ready("tiny")
    objects.wait("the shards that are needed", lambda: objects.status("tiny")["shards"] == 2)
    assert ray.runs(objects.namespace) == ["core", "experts-0", "experts-1"]

    objects.delete("tiny")
    objects.wait_gone("tiny", REMOVED)
    assert ray.configs == {"shop": ray.shop}
    assert {event["reason"] for event in objects.events_of("tiny")} >= {"DeployingCore", "Available", "Asleep"}


def test_nothing_is_put_in_steady_state_and_settings_touch_only_user_config(operator, objects, ray: FakeRay) -> None:
    objects.apply("tiny", ray.spec())
    objects.wait_ready("tiny")
    time.sleep(2)
    puts = len(ray.puts)
    version = objects.get("tiny")["metadata"]["resourceVersion"]
    gets = ray.gets
    objects.wait("the operator to look again", lambda: ray.gets >= gets + 2)
    assert len(ray.puts) == puts
    assert objects.get("tiny")["metadata"]["resourceVersion"] == version

    before = {name: config["args"] for name, config in ray.configs.items() if "args" in config}
    objects.secret("keys", "api-keys", mine="k" * 40)
    objects.patch(
        "tiny",
        json.dumps(
            {
                "spec": {
                    "model": {"servedName": "other"},
                    "serving": {"maxContext": 99, "apiKeysSecretRef": {"name": "keys"}},
                    "attention": {"maxReplicas": 3},
                }
            }
        ),
    )
    objects.wait("one more PUT", lambda: len(ray.puts) == puts + 1)
    assert {name: config["args"] for name, config in ray.configs.items() if "args" in config} == before
    core = next(c for n, c in ray.configs.items() if n.startswith("moe.") and "experts" not in n)
    api = next(d["user_config"] for d in core["deployments"] if d["name"] == "api")
    assert (api["served_name"], api["max_context"], len(api["api_key_sha256"])) == ("other", 99, 1)
    assert "kkkk" not in json.dumps(ray.puts)


def test_another_model_replaces_everything(operator, objects, ray: FakeRay, directory: FakeDirectory) -> None:
    objects.apply("tiny", ray.spec())
    objects.wait_ready("tiny")
    directory.candidate_problem = ModelProblem(reason="ConfigMissing", message="models/other has no config.json")
    objects.patch("tiny", '{"spec": {"model": {"source": {"path": "models/other"}}}}')
    objects.wait_condition("tiny", "Degraded", "True", "ConfigMissing")
    assert objects.condition("tiny", "Ready")["status"] == "True"
    assert ray.runs(objects.namespace) == ["core", "experts-0", "experts-1"]
    ray.puts.clear()
    directory.candidate_problem = None
    objects.wait_settled("tiny", 2)
    paths = [
        {a["args"]["model"]["path"] for a in put["applications"] if a["name"].startswith("moe.")} for put in ray.puts
    ]
    assert paths[0] == set()
    assert all(path == {"models/other"} for path in paths[1:])


def test_two_of_the_same_name_and_a_route_that_is_taken(operator, objects, ray: FakeRay, kube, start_operator) -> None:
    objects.apply("tiny", ray.spec(serving={"routePrefix": "/tiny"}))
    objects.wait_ready("tiny")
    objects.apply("second", ray.spec(serving={"routePrefix": "/tiny"}))
    objects.wait_condition("second", "Ready", "False", "RoutePrefixTaken")
    assert f"MoEDeployment {objects.namespace}/tiny" in objects.condition("second", "Ready")["message"]
    objects.apply("third", ray.spec(serving={"routePrefix": "/shop"}))
    objects.wait_condition("third", "Ready", "False", "RoutePrefixTaken")
    # Whose it is, is no business of this namespace.
    assert "another application on this Ray cluster has" in objects.condition("third", "Ready")["message"]
    assert "shop" not in objects.condition("third", "Ready")["message"].replace("routePrefix is /shop", "")
    assert ray.runs(objects.namespace) == ["core", "experts-0", "experts-1"]
    objects.patch("third", '{"spec": {"serving": {"routePrefix": "/kube-system/third"}}}')
    objects.wait_condition("third", "Ready", "False", "RoutePrefixReserved")
    objects.patch("second", '{"spec": {"serving": {"routePrefix": "/second"}}}')
    objects.wait_ready("second")


@pytest.mark.parametrize(
    ("problem", "shards", "extra", "reason"),
    [
        (ModelProblem(reason="PathNotFound", message="no models/tiny"), 2, {}, "PathNotFound"),
        (ModelProblem(reason="WeightsTruncated", message="model.safetensors is short"), 2, {}, "WeightsTruncated"),
        (None, 17, {}, "TooManyShards"),
        (None, 2, {"slotsPerShard": 1, "copies": {"min": 2}}, "InsufficientSlots"),
    ],
)
def test_bad_models(operator, objects, ray, directory, problem, shards: int, extra: JsonObject, reason: str) -> None:
    directory.problem = problem
    objects.apply("tiny", ray.spec() | {"experts": {"shards": shards, **extra}})
    objects.wait_condition("tiny", "Ready", "False", reason, TOLD)
    assert ray.runs(objects.namespace) == ["core"]
    # Mended in place, as by copying the missing file: it goes on by itself.
    if problem:
        directory.problem = None
        objects.wait_ready("tiny")


async def html(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>It works!</html>", content_type="text/html")


async def broken(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="Traceback")


async def redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://169.254.169.254/")


@pytest.mark.parametrize(
    ("fault", "reason"), [(html, "NotARayDashboard"), (broken, "RayUnreachable"), (redirect, "NotARayDashboard")]
)
def test_a_ray_in_trouble_and_its_recovery(operator, objects, ray: FakeRay, fault: Any, reason: str) -> None:
    ray.override = fault
    objects.apply("tiny", ray.spec())
    objects.wait_condition("tiny", "RuntimeReachable", "False", reason, TOLD)
    ray.override = None
    objects.wait_ready("tiny")
    assert len(objects.events(reason)) == 1


def test_a_ray_that_comes_back_empty_gets_everything_again(operator, objects, ray: FakeRay) -> None:
    objects.apply("tiny", ray.spec())
    objects.wait_ready("tiny")
    ray.override = broken
    objects.wait_condition("tiny", "RuntimeReachable", "False", "RayUnreachable")
    ray.configs.clear()
    ray.controller = "controller-2"
    ray.override = None
    objects.wait_condition("tiny", "RuntimeReachable", "True", "Reachable")
    objects.wait("all applications", lambda: ray.runs(objects.namespace) == ["core", "experts-0", "experts-1"])
    objects.wait_ready("tiny")
    assert objects.condition("tiny", "Degraded")["reason"] == "AsExpected"


def test_tokens(operator, objects, ray: FakeRay) -> None:
    ray.token = "right-token"
    objects.apply("tiny", ray.spec())
    objects.wait_condition("tiny", "Ready", "False", "RayAuthFailed")
    objects.patch("tiny", '{"spec": {"runtime": {"rayCluster": {"tokenSecretRef": {"name": "ray"}}}}}')
    objects.wait_condition("tiny", "Ready", "False", "SecretMissing")
    objects.secret("ray", "something-else", token="wrong-token")
    objects.wait_condition("tiny", "Ready", "False", "SecretNotLabelled")
    objects.secret("ray", "ray-token", addresses="10.0.0.1:8265", token="wrong-token")
    objects.wait_condition("tiny", "Ready", "False", "SecretNotBound")
    objects.ray_token("ray", "wrong-token", ray.url)
    objects.wait_condition("tiny", "Ready", "False", "RayAuthFailed")
    objects.ray_token("ray", "right-token", ray.url)
    objects.wait_ready("tiny")


@pytest.mark.parametrize("edited", [False, True])
def test_a_foreign_writer_is_put_right_and_told_of(operator, objects, ray: FakeRay, edited: bool) -> None:
    objects.apply("tiny", ray.spec())
    objects.wait_ready("tiny")
    name = next(name for name in ray.configs if name.endswith("experts-1"))
    before = copy.deepcopy(ray.configs[name])
    if edited:
        ray.configs[name]["deployments"][0]["user_config"]["slots_per_shard"] += 1
    else:
        ray.drop(name)
    objects.wait_condition("tiny", "Degraded", "True", "ForeignWriter")
    assert ray.configs[name] == before
    where = f"changed {name} (deployments.experts.user_config.slots_per_shard)"
    assert (where if edited else f"removed {name};") in objects.condition("tiny", "Degraded")["message"]
    objects.wait("that to be an Event, too", lambda: bool(objects.events("ForeignWriter")))
    assert len(objects.events("ForeignWriter")) == 1
    assert ray.configs["shop"] == ray.shop


@contextlib.contextmanager
def stopped(operator: OperatorProcess) -> Iterator[None]:
    """The operator holds still, for less than its Lease lasts."""
    guard = operator.process.pid
    (pid,) = map(int, Path(f"/proc/{guard}/task/{guard}/children").read_text().split())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_what_went_without_its_finalizer_leaves_nothing(operator, objects, ray: FakeRay) -> None:
    """As `kubectl replace` from git and a deletion right after it; another one of its name comes at once."""
    objects.apply("tiny", ray.spec())
    objects.wait_ready("tiny")
    first = set(ray.configs) - {"shop"}
    with stopped(operator):
        objects.patch("tiny", '{"metadata": {"finalizers": null}}')
        objects.kube.run("delete", "moe", "tiny", "-n", objects.namespace, "--timeout=5s")
        objects.apply("tiny", ray.spec())
    objects.wait_ready("tiny")
    objects.wait("the former one's applications to go", lambda: not first & set(ray.configs))
    assert ray.runs(objects.namespace) == ["core", "experts-0", "experts-1"]
    objects.patch("tiny", '{"metadata": {"finalizers": null}}')
    objects.wait("the finalizer", lambda: bool(objects.get("tiny")["metadata"].get("finalizers")))
    assert objects.metric(operator, "moe_operator_orphaned_applications") == 0


def test_orphaned_applications_stay(operator, objects, ray: FakeRay) -> None:
    objects.apply("tiny", ray.spec(deletionPolicy="Orphan"))
    objects.wait_ready("tiny")
    objects.kube.run("delete", "moe", "tiny", "-n", objects.namespace)
    assert ray.runs(objects.namespace) == ["core", "experts-0", "experts-1"]


def test_a_name_that_somebody_else_has(operator, objects, ray: FakeRay) -> None:
    objects.secret("tiny-moe-internal", "anything", key="x" * 40)
    objects.apply("tiny", ray.spec())
    objects.wait_condition("tiny", "Ready", "False", "NameConflict")
    objects.kube.run("delete", "secret", "tiny-moe-internal", "-n", objects.namespace)
    objects.wait_ready("tiny")


def test_a_namespace_that_is_deleted_is_gone_with_what_runs(operator, installed: Kubectl, ray: FakeRay) -> None:
    """Nothing can be made in it any more, neither Events nor Secrets; what is there goes in no order."""
    api, name = rest(installed.kubeconfig), f"test-{secrets.token_hex(4)}"
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    objects = Objects(installed, name)
    objects.apply("tiny", ray.spec())
    objects.wait_ready("tiny")
    objects.wait_active("tiny-r1")
    api.delete(f"/api/v1/namespaces/{name}")
    objects.wait("its applications to be removed", lambda: ray.runs(name) == [])
    objects.wait("the namespace to be gone", lambda: api.get(f"/api/v1/namespaces/{name}") is None)


def test_never_reached_never_waited_for(operator, objects, ray: FakeRay) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    objects.apply("tiny", ray.spec(runtime={"dashboardURL": nobody}))
    objects.wait_condition("tiny", "Ready", "False", "RayUnreachable")
    objects.kube.run("delete", "moe", "tiny", "-n", objects.namespace, "--timeout=10s")
