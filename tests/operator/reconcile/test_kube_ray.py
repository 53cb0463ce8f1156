"""Passes over a MoEDeployment that KubeRay runs: what is written, and what is told."""

import copy
import json
from typing import Any

import pytest
from fake_kube_ray import KubeRayBench
from kube_ray_objects import IMAGE, OTHER_IMAGE

from moe_contract.base import CONTRACT
from moe_contract.model import ModelProblem
from moe_contract.report import DirectoryReport
from moe_operator.api import MoEDeployment
from moe_operator.kube.api import Json
from moe_operator.kube.resources import (
    MOE_DEPLOYMENTS,
    NETWORK_POLICIES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    RAY_CLUSTERS,
    RAY_SERVICES,
    SECRETS,
    SERVICES,
)

API = "tiny-moe-api"


async def test_from_nothing_to_requests_answered(running: KubeRayBench) -> None:
    assert running.told == ["core", "experts-0", "experts-1"]
    assert running.selected == "tiny-1"
    status = running.kube.moe()["status"]
    assert status["url"] == f"http://{API}.team.svc:8000/team/tiny/v1"
    assert (status["shards"], status["readyShards"]) == (2, 2)
    labels = "moe-operator.io/deployment=tiny,moe-operator.io/component=expert-shard,ray.io/cluster=tiny-1"
    assert status["selector"] == labels
    found = {
        (plural, name) for plural, _, name in running.kube.objects if plural not in ("events", "pods", "rayclusters")
    }
    assert found == {
        (MOE_DEPLOYMENTS.plural, "tiny"),
        (RAY_SERVICES.plural, "tiny"),
        (SERVICES.plural, API),
        (POD_DISRUPTION_BUDGETS.plural, "tiny-moe-attention"),
        (POD_DISRUPTION_BUDGETS.plural, "tiny-moe-experts"),
        (NETWORK_POLICIES.plural, "tiny-moe-ray"),
        (NETWORK_POLICIES.plural, "tiny-moe-head"),
        (NETWORK_POLICIES.plural, "tiny-moe-api"),
        (SECRETS.plural, "tiny-moe-ray-token"),
        (SECRETS.plural, "tiny-moe-internal"),
        ("expertplacements", "tiny-r1"),
    }


async def test_what_is_settled_costs_the_api_server_nothing(running: KubeRayBench) -> None:
    before = {key: body["metadata"]["resourceVersion"] for key, body in running.kube.objects.items()}
    running.kube.reads.clear()
    await running.work(5, seconds=2.0, kube_ray=False)
    assert {key: body["metadata"]["resourceVersion"] for key, body in running.kube.objects.items()} == before
    assert {plural for plural, _ in running.kube.reads} <= {MOE_DEPLOYMENTS.plural, SECRETS.plural}


async def test_a_shard_more_or_less_is_an_application_more_or_less(running: KubeRayBench) -> None:
    running.change(experts={"shards": 4})
    await running.work(5, seconds=1.0)
    assert running.told == ["core", "experts-0", "experts-1", "experts-2", "experts-3"]
    assert running.child(POD_DISRUPTION_BUDGETS, "tiny-moe-experts")["spec"]["minAvailable"] == 4
    running.change(experts={"shards": 2})
    await running.work(6, seconds=1.0)
    assert running.told == ["core", "experts-0", "experts-1"]
    assert running.kube_ray.started == 1
    assert running.condition("Ready") == "True Available"


def fewest(bench: KubeRayBench, group: int = 1) -> list[int]:
    """Expert pods that Ray's autoscaler keeps in the cluster that runs, and in later ones; or attention's."""
    active = bench.child(RAY_CLUSTERS, "tiny-1")["spec"]
    later = bench.child(RAY_SERVICES)["spec"]["rayClusterConfig"]
    return [int(spec["workerGroupSpecs"][group]["minReplicas"]) for spec in (active, later)]


async def test_a_cluster_begins_with_its_pods_and_keeps_each_until_its_shard_has_gone(running: KubeRayBench) -> None:
    assert (fewest(running, 0), fewest(running)) == ([1, 1], [2, 2])
    running.change(experts={"shards": 4})
    await running.work(5, seconds=1.0)
    assert fewest(running) == [2, 4], "more come because their shards ask for them"
    running.change(runtime=OTHER_IMAGE)
    await running.work(5, seconds=1.0)
    assert running.selected == "tiny-2"
    running.change(experts={"shards": 2})
    for _ in range(8):
        await running.work(1, seconds=1.0)
        left = len(running.told) - 1
        kept = running.child(RAY_CLUSTERS, "tiny-2")["spec"]["workerGroupSpecs"][1]["minReplicas"]
        assert (kept, fewest(running)[1]) == (left, left)
    assert left == 2


async def test_a_cluster_of_the_version_before_stays_as_it_is(running: KubeRayBench) -> None:
    """Which kept no pod that nothing runs on."""
    cluster = copy.deepcopy(running.child(RAY_SERVICES)["spec"]["rayClusterConfig"])
    for group in cluster["workerGroupSpecs"]:
        group["minReplicas"] = 0
    running.edit(RAY_SERVICES, "tiny", rayClusterConfig=cluster)
    running.edit(RAY_CLUSTERS, "tiny-1", workerGroupSpecs=copy.deepcopy(cluster["workerGroupSpecs"]))
    assert fewest(running) == [0, 0]
    running.restart()
    await running.work(3, seconds=1.0)
    assert (fewest(running, 0), fewest(running)) == ([0, 1], [0, 2])
    assert (running.kube_ray.started, running.selected) == (1, "tiny-1")


async def test_spare_pods_are_kept_whatever_the_number_of_shards(kube_ray_bench: KubeRayBench) -> None:
    kube_ray_bench.apply({"expertWorkers": {"spares": 1}})
    await kube_ray_bench.ready()
    assert fewest(kube_ray_bench) == [3, 3]
    budget = kube_ray_bench.child(POD_DISRUPTION_BUDGETS, "tiny-moe-experts")["spec"]
    assert budget["minAvailable"] == 2, "a spare pod, which is not ready, is none that must stay"
    kube_ray_bench.change(experts={"shards": 4})
    await kube_ray_bench.work(5, seconds=1.0)
    assert fewest(kube_ray_bench) == [5, 5]
    kube_ray_bench.change(runtime={"kubeRay": {"image": IMAGE}})
    await kube_ray_bench.work(2, seconds=1.0)
    assert fewest(kube_ray_bench) == [4, 4], "no spares any more"
    assert kube_ray_bench.kube_ray.started == 1


async def test_what_pods_are_for_is_none_of_the_resources_that_a_deployment_asks_for(running: KubeRayBench) -> None:
    state = await running.reconciler.observer.runtimes.open(_parsed(running)).observe(_parsed(running))
    assert [dict(told.actor_options) for told in state.told.values()] == [{}, {}, {}]


def _parsed(bench: KubeRayBench) -> MoEDeployment:
    return MoEDeployment.parse(bench.kube.moe())


async def test_another_operator_goes_on(running: KubeRayBench) -> None:
    config = running.child(RAY_SERVICES)["spec"]["serveConfigV2"]
    running.restart()
    await running.work(3, seconds=1.0)
    assert running.told == ["core", "experts-0", "experts-1"]
    assert running.child(RAY_SERVICES)["spec"]["serveConfigV2"].replace('"term":2', '"term":1') == config
    assert running.kube_ray.started == 1


DRIFT: list[tuple[Any, str, dict[str, Any]]] = [
    (RAY_SERVICES, "tiny", {"excludeHeadPodFromServeSvc": False}),
    (SERVICES, API, {"selector": {"ray.io/cluster": "gone", "ray.io/group": "attention"}}),
    (POD_DISRUPTION_BUDGETS, "tiny-moe-experts", {"minAvailable": 0}),
    (NETWORK_POLICIES, "tiny-moe-api", {"ingress": []}),
]


@pytest.mark.parametrize(("resource", "name", "fields"), DRIFT, ids=lambda value: getattr(value, "kind", None))
async def test_drift_is_repaired(running: KubeRayBench, resource: Any, name: str, fields: dict[str, Any]) -> None:
    before = running.child(resource, name)["spec"]
    running.edit(resource, name, **fields)
    await running.work(2)
    assert running.child(resource, name)["spec"] == before


async def test_what_somebody_else_has_serve_told_is_put_back_and_told(running: KubeRayBench) -> None:
    before = running.child(RAY_SERVICES)["spec"]
    running.edit(RAY_SERVICES, "tiny", serveConfigV2='{"applications": []}')
    await running.work(2, seconds=1.0)
    assert running.child(RAY_SERVICES)["spec"] == before
    assert running.condition("Degraded") == "True ForeignWriter"
    assert "changed RayService team/tiny (spec.serveConfigV2)" in running.message("Degraded")


async def test_who_undoes_everything_at_once_is_answered_seldomer(running: KubeRayBench) -> None:
    put_back = 0
    for _ in range(30):
        running.edit(RAY_SERVICES, "tiny", serveConfigV2='{"applications": []}')
        await running.work(1, seconds=1.0, kube_ray=False)
        put_back += running.child(RAY_SERVICES)["spec"]["serveConfigV2"] != '{"applications": []}'
    assert 4 <= put_back <= 8
    assert running.condition("Degraded") == "True ForeignWriter"


async def test_a_ray_service_without_its_labels_is_found_and_no_shard_is_lost(running: KubeRayBench) -> None:
    live = running.child(RAY_SERVICES)
    running.kube.put(RAY_SERVICES, {**live, "metadata": {**live["metadata"], "labels": {}}})
    running.restart()
    await running.work(3, seconds=1.0)
    assert running.child(RAY_SERVICES)["metadata"]["labels"]["moe-operator.io/deployment"] == "tiny"
    assert running.told == ["core", "experts-0", "experts-1"]


async def test_one_that_somebody_deleted_comes_back_as_it_was(running: KubeRayBench) -> None:
    revision = running.kube.moe()["status"]["placement"]["revision"]
    running.kube.drop(RAY_SERVICES, "tiny")
    await running.work(1, seconds=1.0, kube_ray=False)
    assert running.told == ["core", "experts-0", "experts-1"]
    running.kube_ray.step()
    await running.work(4, seconds=1.0)
    assert running.condition("Ready") == "True Available"
    assert running.kube.moe()["status"]["placement"]["revision"] == revision


@pytest.mark.parametrize(
    ("resource", "name"), [(RAY_SERVICES, "tiny"), (SERVICES, API), (SECRETS, "tiny-moe-ray-token")]
)
async def test_a_foreign_object_with_a_childs_name_is_left_alone(
    kube_ray_bench: KubeRayBench, resource: Any, name: str
) -> None:
    body = {"kind": resource.kind, "metadata": {"name": name, "namespace": "team"}, "spec": {"serveConfigV2": "{}"}}
    there = kube_ray_bench.kube.put(resource, body)
    kube_ray_bench.apply()
    await kube_ray_bench.work(3, kube_ray=False)
    assert kube_ray_bench.condition("Degraded") == "True NameConflict"
    assert f"{resource.kind} '{name}' in namespace 'team' has no controller" in kube_ray_bench.message("Degraded")
    assert kube_ray_bench.child(resource, name) == there
    kube_ray_bench.kube.drop(resource, name)
    await kube_ray_bench.work(8, seconds=5.0)
    assert kube_ray_bench.condition("Ready") == "True Available"


async def test_kube_ray_may_come_later_and_go(kube_ray_bench: KubeRayBench) -> None:
    kube_ray_bench.installed = False
    kube_ray_bench.apply()
    await kube_ray_bench.work(2)
    assert kube_ray_bench.condition("RuntimeReachable") == "False KubeRayMissing"
    assert "kubectl create -k" in kube_ray_bench.message("RuntimeReachable")
    kube_ray_bench.installed = True
    await kube_ray_bench.ready()
    kube_ray_bench.installed = False
    kube_ray_bench.kube.drop(RAY_SERVICES, "tiny")
    await kube_ray_bench.work(2, seconds=10.0)
    assert kube_ray_bench.condition("RuntimeReachable") == "False KubeRayMissing"


async def test_what_kube_ray_does_not_take_is_told(kube_ray_bench: KubeRayBench) -> None:
    kube_ray_bench.apply()
    await kube_ray_bench.work(1)
    live = kube_ray_bench.child(RAY_SERVICES)
    refused = {"type": "Ready", "status": "False", "reason": "ValidationFailed", "message": "the spec is invalid"}
    kube_ray_bench.kube.put(RAY_SERVICES, {**live, "status": {"conditions": [refused]}})
    await kube_ray_bench.work(1, kube_ray=False)
    assert kube_ray_bench.condition("Degraded") == "True KubeRayRefused"
    assert "the spec is invalid" in kube_ray_bench.message("Degraded")


async def test_that_nobody_works_it_is_told(kube_ray_bench: KubeRayBench) -> None:
    kube_ray_bench.apply()
    await kube_ray_bench.work(1, kube_ray=False)
    live = kube_ray_bench.child(RAY_SERVICES)
    made = {"creationTimestamp": kube_ray_bench.today.isoformat()}
    kube_ray_bench.kube.put(RAY_SERVICES, {**live, "metadata": {**live["metadata"], **made}})
    await kube_ray_bench.work(1, seconds=10.0, kube_ray=False)
    assert kube_ray_bench.condition("Degraded").startswith("False")
    await kube_ray_bench.work(1, seconds=15.0, kube_ray=False)
    assert kube_ray_bench.condition("Degraded") == "True KubeRayMissing"


async def test_why_a_pod_does_not_come_up_is_told(kube_ray_bench: KubeRayBench) -> None:
    kube_ray_bench.apply()
    await kube_ray_bench.work(1)
    kube_ray_bench.kube_ray.step()
    core = kube_ray_bench.rays[0].configs.copy().popitem()[0]
    kube_ray_bench.kube_ray.statuses[core] = ("DEPLOYING", "")
    head = kube_ray_bench.child(PODS, "tiny-1-head")
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nowhere/x:1"'}
    kube_ray_bench.kube.put(PODS, {**head, "status": {"containerStatuses": [{"state": {"waiting": waiting}}]}})
    await kube_ray_bench.work(1)
    assert kube_ray_bench.condition("Degraded") == "True ImagePullFailed"
    assert 'waits: ImagePullBackOff: Back-off pulling image "nowhere/x:1"' in kube_ray_bench.message("Degraded")


async def test_an_image_without_our_package_is_told_by_its_name(kube_ray_bench: KubeRayBench) -> None:
    kube_ray_bench.apply()
    await kube_ray_bench.work(1)
    kube_ray_bench.kube_ray.step()
    core = kube_ray_bench.rays[0].configs.copy().popitem()[0]
    said = "ray::build()\nModuleNotFoundError: No module named 'moe_serving'\n"
    kube_ray_bench.kube_ray.statuses[core] = ("DEPLOY_FAILED", said)
    await kube_ray_bench.work(2, seconds=1.0)
    assert kube_ray_bench.condition("Degraded") == "True PackageMissing"
    assert kube_ray_bench.message("Degraded").startswith(
        f"the image {IMAGE} has no Python package 'moe_serving': build one with moe-operator[serving]"
    )


async def test_while_suspended_nothing_is_written(running: KubeRayBench) -> None:
    before = running.child(RAY_SERVICES)["spec"]
    running.change(suspend=True, experts={"shards": 4}, runtime=OTHER_IMAGE)
    await running.work(3, seconds=1.0)
    assert running.child(RAY_SERVICES)["spec"] == before
    assert running.condition("Reconciling") == "False Suspended"


async def test_what_runs_goes_before_the_object_does(running: KubeRayBench) -> None:
    assert running.finalizers() == ["moe-operator.io/ray-cleanup"]
    running.delete()
    await running.work(1)
    assert not running.kube.exists(RAY_SERVICES, "tiny")
    await running.work(2)
    assert not running.kube.exists(MOE_DEPLOYMENTS, "tiny")


async def test_a_token_of_the_hub_goes_to_pods_once_its_owner_allows_it(kube_ray_bench: KubeRayBench) -> None:
    hub = {"repo": "team/tiny", "revision": "0" * 40, "tokenSecretRef": {"name": "hub"}}
    kube_ray_bench.apply(model={"source": {"huggingFace": hub}})
    await kube_ray_bench.work(2, seconds=1.0)
    field = "spec.model.source.huggingFace.tokenSecretRef: "
    assert kube_ray_bench.condition("Ready") == "False SecretMissing"
    assert kube_ray_bench.message("Ready").startswith(f"{field}Secret 'hub' does not exist in namespace 'team'")
    kube_ray_bench.kube.secret("hub", None, token="hf_of_the_team")
    await kube_ray_bench.work(2, seconds=4.0)
    assert kube_ray_bench.condition("Ready") == "False SecretNotLabelled"
    assert "label --overwrite secret hub moe-operator.io/use=model-source" in kube_ray_bench.message("Ready")
    kube_ray_bench.kube.secret("hub", "model-source", other="hf_of_the_team")
    await kube_ray_bench.work(2, seconds=4.0)
    assert kube_ray_bench.message("Ready").startswith(f"{field}Secret 'hub' has no token that could be used: ")
    assert not kube_ray_bench.kube.exists(RAY_SERVICES, "tiny")
    kube_ray_bench.kube.secret("hub", "model-source", token="hf_of_the_team")
    await kube_ray_bench.work(2, seconds=4.0)
    await kube_ray_bench.ready()
    written = [body for (plural, _, name), body in kube_ray_bench.kube.objects.items() if name != "hub"]
    assert "hf_of_the_team" not in json.dumps(written)


async def test_of_a_new_model_all_must_be_to_be_had_since_pods_go_with_what_they_have_fetched(
    running: KubeRayBench,
) -> None:
    tell = running.directory.__call__

    def of_today(config: Json) -> DirectoryReport | None:
        told = tell(config)
        return told and told.model_copy(update={"contract": CONTRACT})

    running.rays[0].report = of_today
    running.directory.candidate_problem = ModelProblem(reason="PathNotFound", message="no models/other")
    running.change(model={"source": {"path": "models/other"}})
    await running.work(3, seconds=1.0)
    assert '"caches_go":true' in running.child(RAY_SERVICES)["spec"]["serveConfigV2"]
    running.change(model={"source": {"path": "models/tiny"}})
    await running.work(3, seconds=1.0)
    assert "caches_go" not in running.child(RAY_SERVICES)["spec"]["serveConfigV2"]


async def test_another_model_starts_anew(running: KubeRayBench) -> None:
    running.change(model={"source": {"path": "models/other"}})
    await running.work(12, seconds=1.0)
    assert running.condition("Ready") == "True Available"
    assert '"path":"models/other"' in running.child(RAY_SERVICES)["spec"]["serveConfigV2"]
