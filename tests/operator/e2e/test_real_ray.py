"""The main job on real parts: API server, operator, Ray Serve, data plane, the small model, the openai client."""

import json
import os
import shutil
import signal
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from moe_objects import REMOVED, TOLD, Objects
from placement_objects import manifest
from ray_clients import CHANGE, START, TINY, Streams, gpus_asked, reference, report, spec, tokens

from moe_contract.serve.state import parse_state
from moe_dev.operator_process import OperatorProcess
from moe_dev.paths import CLONE
from moe_dev.raylocal import LocalRay
from moe_operator.api import MoEDeployment, Reason
from moe_operator.api.names import ANNOTATION_DRAIN
from moe_operator.reconcile.diagnosis import diagnose
from moe_operator.reconcile.intent import Intent, Step
from moe_operator.reconcile.world import World
from moe_operator.runtimes.port import core_name
from moe_operator.runtimes.ray_cluster.state import runtime_state
from moe_placement.cli import main
from moe_placement.traces import read_trace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

API_KEY = "k" * 40


def writes_to_serve(objects: Objects, operator: OperatorProcess) -> float:
    return objects.metric(operator, 'moe_operator_serve_writes_total{result="ok"}')


def serve_rest(ray: LocalRay, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET of Serve's applications, or PUT of ``config``, as somebody else would."""
    request = urllib.request.Request(
        f"{ray.dashboard_url}/api/serve/applications/",
        data=json.dumps(config).encode() if config else None,
        headers={"Authorization": f"Bearer {ray.token}", "Content-Type": "application/json"},
        method="PUT" if config else "GET",
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or "{}")


def pids(objects: Objects, name: str) -> dict[int, int]:
    """Process of each shard, as the directory reports it."""
    return {shard.index: shard.pid for shard in report(objects, name).shards}


def held(objects: Objects, name: str) -> dict[int, int]:
    """Copies of experts that each shard holds, as the directory reports it."""
    return {shard.index: shard.held for shard in report(objects, name).shards}


def swap_shards(objects: Objects, name: str) -> dict[str, Any]:
    """An ExpertPlacement as a person writes one from that which runs, with the two halves of each line exchanged."""
    content = objects.placement(name)["spec"]["content"]
    slots = content["slotsPerShard"]
    words = [line.split() for line in content["layers"]]
    layers = [" ".join(line[slots:] + line[:slots]) for line in words]
    revision = content["revision"]
    fields = {"revision": revision + 1, "baseRevision": revision, "layers": layers}
    return manifest(content | fields, namespace=objects.namespace)


def test_the_main_job(operator, on_ray: Objects, ray_cluster: LocalRay, tmp_path: Path, capsys) -> None:
    # Ray runs in the clone, the operator elsewhere: it cannot see the model, and must not want to.
    assert not (operator.process.log.parent / "models").exists()
    in_float32 = {"dtype": "float32"}
    experts = {"slotsPerShard": 16, "resources": {"gpus": 0.5}}
    record = {"record": {"path": str(tmp_path / "traces"), "sampleRows": 500}}
    on_ray.apply("tiny", spec(ray_cluster, "models/tiny", model=in_float32, experts=experts, rebalance=record))
    said = reference()
    on_ray.wait_ready("tiny", START)
    assert tokens(on_ray, "tiny") == said
    assert gpus_asked(ray_cluster, "experts") == [0.5, 0.5]
    room = on_ray.status("tiny")["memory"]
    # Of two spare buffers and 6 layers of 16 slots; the machine's memory is shared by two shards.
    assert room["needed"] > (6 * 16 + 2) * on_ray.status("tiny")["model"]["bytesPerExpert"]
    assert room["slots"] >= 16
    # Serve echoes what was submitted, so that nothing is submitted again.
    written, looks = writes_to_serve(on_ray, operator), 'moe_operator_reconciles_total{result="done"}'
    looked = on_ray.metric(operator, looks)
    on_ray.wait("two looks at what has settled", lambda: on_ray.metric(operator, looks) >= looked + 2)
    assert writes_to_serve(on_ray, operator) == written
    before = pids(on_ray, "tiny")

    with Streams(on_ray, "tiny", 8, said) as streams:
        streams.flowing()
        swapped = swap_shards(on_ray, "tiny-r1")
        on_ray.kube.apply(swapped)
        on_ray.approve("tiny-r2")
        on_ray.wait_active("tiny-r2", CHANGE)
        streams.flowing()
        became = on_ray.placement("tiny-r2")["status"]
        # Every expert of both shards has gone to the other one.
        assert became["price"] == {"moves": 6 * 16, "bytes": 6 * 16 * on_ray.status("tiny")["model"]["bytesPerExpert"]}
        assert became["progress"]["copied"] == became["progress"]["total"] == 6 * 16
        assert on_ray.phase("tiny-r1") == "Superseded"
        assert on_ray.status("tiny")["placement"]["revision"] == 2
        assert pids(on_ray, "tiny") == before
        on_ray.scale("tiny", 4)
        on_ray.wait_settled("tiny", 2, CHANGE)
        grown = pids(on_ray, "tiny")
        assert {index: grown[index] for index in before} == before
        assert len(grown) == 4
        # Two shards hold nothing any more, though they run on, and are given experts again afterwards.
        on_ray.annotate("tiny", f"{ANNOTATION_DRAIN}=0,2")
        on_ray.wait_condition("tiny", "Drained", "True", "Drained", CHANGE)
        emptied = held(on_ray, "tiny")
        assert (emptied[0], emptied[1] + emptied[3], emptied[2]) == (0, 6 * 16, 0)
        streams.flowing()
        on_ray.annotate("tiny", f"{ANNOTATION_DRAIN}-")
        on_ray.wait("experts on all shards", lambda: set(held(on_ray, "tiny").values()) == {24}, CHANGE)
        on_ray.wait("the drain to be forgotten", lambda: not on_ray.condition("tiny", "Drained"), CHANGE)
        assert pids(on_ray, "tiny") == grown
        on_ray.patch("tiny", '{"spec": {"experts": {"copies": {"min": 2}}}}')
        on_ray.wait_settled("tiny", 3, CHANGE)
        os.kill(grown[3], signal.SIGKILL)
        again = (0, grown[3])
        on_ray.wait("shard 3 anew", lambda: pids(on_ray, "tiny")[3] not in again, CHANGE)
        on_ray.wait_settled("tiny", 3, CHANGE)
        assert on_ray.condition("tiny", "Ready")["status"] == "True"
        on_ray.scale("tiny", 2)
        on_ray.wait_settled("tiny", 4, CHANGE)
        assert pids(on_ray, "tiny") == before
        streams.flowing()
    print(f"{streams.answers} answers in 8 streams while shards went 2 → 4 → 2, two were drained and one was killed")
    assert tokens(on_ray, "tiny") == said

    # Settings arrive without a restart.
    on_ray.secret("keys", "api-keys", mine=API_KEY)
    settings = {"model": {"servedName": "renamed"}, "serving": {"apiKeysSecretRef": {"name": "keys"}}}
    assert on_ray.condition("tiny", "Recording")["status"] == "True"
    settings |= {"rebalance": {"record": None}}
    on_ray.patch("tiny", json.dumps({"spec": settings}))

    def renamed() -> bool:
        try:
            return tokens(on_ray, "tiny", "renamed", API_KEY) == said
        except openai.APIError:
            return False

    on_ray.wait("the new name and key", renamed, CHANGE)
    with pytest.raises(openai.AuthenticationError):
        tokens(on_ray, "tiny", "renamed", "wrong")
    assert pids(on_ray, "tiny") == before
    # What was recorded until then is replayed.
    on_ray.wait("no condition Recording", lambda: not on_ray.condition("tiny", "Recording"), CHANGE)
    on_ray.wait("a file of traffic", lambda: list((tmp_path / "traces").glob("*.npz")), CHANGE)
    assert all(len(read_trace(file)) <= 500 for file in (tmp_path / "traces").glob("*.npz"))
    assert main(["compare", str(tmp_path / "traces"), "--shards", "2", "--slots", "9"]) == 0
    assert "moe-placement" in capsys.readouterr().out

    on_ray.patch("tiny", '{"spec": {"suspend": true}}')
    on_ray.wait_condition("tiny", "Progressing", "False", "Suspended", CHANGE)
    assert tokens(on_ray, "tiny", "renamed", API_KEY) == said
    on_ray.delete("tiny")
    on_ray.wait_gone("tiny", REMOVED)


def two_teams(ray: LocalRay) -> tuple[dict[str, Any], dict[str, Any]]:
    """The specs of the example, on this Ray."""
    documents = yaml.safe_load_all((CLONE / "examples" / "02-two-teams.yaml").read_text())
    first, second = (document["spec"] for document in documents if document["kind"] == "MoEDeployment")
    for found in (first, second):
        found["runtime"]["rayCluster"] |= {"dashboardURL": ray.dashboard_url, "serveURL": ray.serve_url}
    return first, second


@pytest.mark.long
def test_the_example_of_two_teams_and_another_model(
    operator, on_ray: Objects, ray_cluster: LocalRay, second_namespace: str, tmp_path: Path
) -> None:
    other = Objects(on_ray.kube, second_namespace)
    other.ray_token("ray-token", ray_cluster.token, ray_cluster.dashboard_url)
    first, second = two_teams(ray_cluster)
    on_ray.apply("tiny", first)
    other.apply("tiny", second)
    on_ray.wait_ready("tiny", START)
    other.wait_ready("tiny", START)
    assert on_ray.status("tiny")["url"] == f"{ray_cluster.serve_url}/{on_ray.namespace}/tiny/v1"
    assert other.status("tiny")["url"] == f"{ray_cluster.serve_url}/b/v1"
    said = tokens(on_ray, "tiny")
    assert tokens(other, "tiny", "team-b/tiny") == reference()

    copy = shutil.copytree(TINY, tmp_path / "copy")
    on_ray.patch("tiny", json.dumps({"spec": {"model": {"source": {"path": str(copy)}}}}))
    on_ray.wait_settled("tiny", 2, START)
    assert tokens(on_ray, "tiny") == said
    assert tokens(other, "tiny", "team-b/tiny") == reference()
    other.delete("tiny")
    other.wait_gone("tiny", REMOVED)
    assert tokens(on_ray, "tiny") == said


def broken_models(root: Path) -> dict[str, Path]:
    """Directories that are no model, by the reason that must be given for each."""
    made = {"PathNotFound": root / "nowhere"}
    for reason in (
        "ConfigMissing", "NotMixtureOfExperts", "UnsupportedArchitecture", "WeightsMissing", "WeightsTruncated",
    ):  # fmt: skip
        made[reason] = shutil.copytree(TINY, root / reason)
    (made["ConfigMissing"] / "config.json").unlink()
    _edit_config(made["NotMixtureOfExperts"], model_type="llama", num_local_experts=None, num_experts_per_tok=None)
    _edit_config(made["UnsupportedArchitecture"], model_type="jamba")
    (made["WeightsMissing"] / "model.safetensors").unlink()
    weights = made["WeightsTruncated"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return made


def _edit_config(model: Path, **fields: Any) -> None:
    path = model / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def directory_runs(ray: LocalRay, objects: Objects, name: str) -> bool:
    mine = f"moe.{objects.namespace}.{name}."
    cores = [a for n, a in serve_rest(ray)["applications"].items() if n.startswith(mine)]
    return any(core["deployments"].get("directory", {}).get("status") == "HEALTHY" for core in cores)


def told_of_a_missing_package(objects: Objects, application: dict[str, Any]) -> str:
    """What would be said of a deployment whose core application failed as this foreign one did."""
    moe = MoEDeployment.parse(objects.get("bad") or {})
    failed = parse_state({"applications": {core_name(moe): {**application, "deployed_app_config": None}}})
    world = World(moe, datetime.now(UTC), runtime_state(failed, moe))
    problem = diagnose(world, Intent(Step.RUN))
    assert problem is not None
    assert problem.reason is Reason.PACKAGE_MISSING, problem
    return problem.message


def test_bad_models_are_told_of(operator, on_ray: Objects, ray_cluster: LocalRay, tmp_path: Path) -> None:
    """One deployment whose spec is edited: each reason comes from where Ray runs, which alone sees the paths.

    Within 10 s, says the promise. The first one waits for processes to start, which a busy machine can make longer:
    there the 10 s are counted from when a directory runs, which looks for the model.
    """
    shop = {"name": "shop", "route_prefix": "/shop", "import_path": "shop.app:app", "args": {"n": 1}}
    serve_rest(ray_cluster, {"applications": [shop]})
    options = {k: v for k, v in serve_rest(ray_cluster).items() if k in ("http_options", "proxy_location")}
    wait_for_the_end_of_the_shop(on_ray, ray_cluster)
    models = broken_models(tmp_path)
    took = {}
    for reason, path in models.items():
        on_ray.apply("bad", spec(ray_cluster, path, shards=1))
        started = (
            0.0 if took else on_ray.wait("its directory", lambda: directory_runs(ray_cluster, on_ray, "bad"), START)
        )
        took[reason] = started + on_ray.wait_condition("bad", "Ready", "False", reason, TOLD)
        assert str(path) in on_ray.condition("bad", "Ready")["message"]
        assert on_ray.condition("bad", "ModelValid")["reason"] == reason
        if reason == "UnsupportedArchitecture":
            assert "supported are Mixtral (mixtral), " in on_ray.condition("bad", "Ready")["message"]
    good = {"source": {"path": str(TINY)}}
    too_few = {"slotsPerShard": 1, "copies": {"min": 2}}
    for reason, change in {
        "TooManyShards": {"model": good, "experts": {"shards": 17}},
        "InsufficientSlots": {"suspend": False, "experts": too_few},
    }.items():
        if reason == "InsufficientSlots":
            # Beside so few slots, fewer shards would be refused: the model is known by now.
            on_ray.patch("bad", json.dumps({"spec": {"suspend": True, "experts": {"shards": 2}}}))
        on_ray.patch("bad", json.dumps({"spec": change}))
        took[reason] = on_ray.wait_condition("bad", "Ready", "False", reason, TOLD)
    print({reason: f"{seconds:.1f} s" for reason, seconds in took.items()})
    # What is somebody else's is as it was, although it never started.
    wait_for_the_end_of_the_shop(on_ray, ray_cluster)
    assert shop_now(ray_cluster)["deployed_app_config"] == shop
    assert {k: serve_rest(ray_cluster)[k] for k in options} == options
    assert "has no Python package 'shop'" in told_of_a_missing_package(on_ray, shop_now(ray_cluster))


def wait_for_the_end_of_the_shop(objects: Objects, ray: LocalRay) -> None:
    """Serve builds it anew at every configuration that it is given."""
    objects.wait("the end of the shop", lambda: shop_now(ray)["status"] == "DEPLOY_FAILED")


def shop_now(ray: LocalRay) -> dict[str, Any]:
    found: dict[str, Any] = serve_rest(ray)["applications"]["shop"]
    return found


def test_a_ray_that_cannot_be_used_is_told_of(
    operator, on_ray: Objects, ray_cluster: LocalRay, unused_tcp_port: int
) -> None:
    nobody = f"http://127.0.0.1:{unused_tcp_port}"
    on_ray.ray_token("ray-token", ray_cluster.token, ray_cluster.serve_url, nobody)
    on_ray.ray_token("wrong", "0" * 64, ray_cluster.dashboard_url)
    for name, reason, runtime in (
        ("token", "RayAuthFailed", {"tokenSecretRef": {"name": "wrong"}}),
        ("dashboard", "NotARayDashboard", {"dashboardURL": ray_cluster.serve_url}),
        ("nobody", "RayUnreachable", {"dashboardURL": nobody}),
    ):
        wrong = spec(ray_cluster)
        wrong["runtime"]["rayCluster"] |= runtime
        on_ray.apply(name, wrong)
        on_ray.wait_condition(name, "Ready", "False", reason, TOLD)
