"""The RayService: its numbers of pods, what makes it another cluster, and who may join it."""

import importlib.metadata
import json
from typing import Any

import pytest
from kube_ray_objects import TOKEN, kube_ray_deployment, rendered

from moe_operator.kube.api import Json
from moe_operator.release import RAY_VERSION
from moe_operator.runtimes.kube_ray.clusters import of_pods
from moe_operator.runtimes.kube_ray.manifests.ray_service import build_ray_service, fewest_steps


def test_the_version_of_ray_is_the_one_that_serving_pins() -> None:
    requires = importlib.metadata.requires("moe-operator") or []
    assert [each for each in requires if each.startswith(f"ray[serve]=={RAY_VERSION};")]


def test_a_pod_offers_room_for_one_shard_or_one_attention_replica() -> None:
    cluster = rendered()["rayClusterConfig"]
    attention, experts = cluster["workerGroupSpecs"]
    assert (attention["groupName"], attention["resources"]) == ("attention", {"CPU": "0", "attention": "1"})
    assert (experts["groupName"], experts["resources"]) == ("experts", {"CPU": "1", "moe_shard": "1"})
    assert cluster["headGroupSpec"]["resources"] == {"CPU": "0"}
    assert [(g["minReplicas"], g["replicas"], g["maxReplicas"]) for g in (attention, experts)] == [
        (1, 1, 1000),
        (2, 2, 1024),
    ]
    assert cluster["enableInTreeAutoscaling"] is True


def counted_by_kube_ray(**experts: Any) -> Any:
    return of_pods(build_ray_service(kube_ray_deployment(**experts), "", experts["shards"], TOKEN)["spec"])


def test_other_numbers_of_pods_are_no_other_cluster() -> None:
    assert counted_by_kube_ray(shards=2) == counted_by_kube_ray(shards=4)


def test_how_long_an_idle_pod_stays_does_not_change_with_a_release() -> None:
    """KubeRay counts it among what makes a cluster another one: every pod of every deployment would start anew."""
    cluster = rendered()["rayClusterConfig"]
    of_groups = [group["idleTimeoutSeconds"] for group in cluster["workerGroupSpecs"]]
    assert [*of_groups, cluster["autoscalerOptions"]["idleTimeoutSeconds"]] == [30, 30, 30]


def to_fewest(index: int, name: str, value: int) -> list[Json]:
    path = f"/spec/workerGroupSpecs/{index}"
    return [
        {"op": "test", "path": f"{path}/groupName", "value": name},
        {"op": "add", "path": f"{path}/minReplicas", "value": value},
    ]


FEWEST: list[tuple[list[tuple[str, int | None]], int, list[Json]]] = [
    # (name, minReplicas) of the groups of a running cluster, spares, what is patched for one attention and two shards
    ([("attention", 1), ("experts", 2)], 0, []),
    # of a version that kept no pod without a process, and of fewer shards: what comes asks for its pod
    ([("attention", 0), ("experts", 0)], 0, []),
    ([("attention", 2), ("experts", 4)], 0, [*to_fewest(0, "attention", 1), *to_fewest(1, "experts", 2)]),
    ([("attention", 0), ("experts", 2)], 1, to_fewest(1, "experts", 3)),
    ([("attention", 1), ("experts", 5)], 1, to_fewest(1, "experts", 3)),
    # in another order, beside a group of somebody else's
    ([("experts", None), ("other", 7)], 1, to_fewest(0, "experts", 3)),
]


@pytest.mark.parametrize(("groups", "spares", "steps"), FEWEST)
def test_how_a_running_cluster_is_told_how_few_pods_there_may_be(
    groups: list[tuple[str, int | None]], spares: int, steps: list[Json]
) -> None:
    moe = kube_ray_deployment({"expertWorkers": {"spares": spares}}, shards=2)
    live = [{"groupName": name, **({} if kept is None else {"minReplicas": kept})} for name, kept in groups]
    assert fewest_steps(moe, {"spec": {"workerGroupSpecs": live}}, 2) == steps


def test_no_pod_has_a_log_monitor() -> None:
    """KubeRay leaves out what is ``false``, and takes ``true`` for a flag without a value."""
    cluster = rendered()["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert [group["rayStartParams"]["include-log-monitor"] for group in groups] == ["0"] * 3


def test_ray_is_closed_to_whoever_has_not_our_token() -> None:
    assert rendered()["rayClusterConfig"]["authOptions"] == {"mode": "token", "secretName": "tiny-moe-ray-token"}


def test_changed_tolerations_force_a_new_cluster_though_kube_ray_does_not_count_them() -> None:
    def annotations(**toleration: str) -> Any:
        spec = rendered(expertWorkers={"tolerations": [toleration]})
        return spec["rayClusterConfig"]["workerGroupSpecs"][1]["template"]["metadata"]["annotations"]

    assert annotations(key="a") == annotations(key="a") != annotations(key="b")


def test_another_token_forces_a_new_cluster_and_is_nowhere_to_be_read() -> None:
    def cluster(token: str) -> Json:
        return build_ray_service(kube_ray_deployment(shards=2), "", 2, token)["spec"]["rayClusterConfig"]

    def digests(of: Json) -> list[Any]:
        groups = [of["headGroupSpec"], *of["workerGroupSpecs"]]
        return [group["template"]["metadata"]["annotations"] for group in groups]

    assert all(one != other for one, other in zip(digests(cluster("a" * 43)), digests(cluster("b" * 43)), strict=True))
    assert "a" * 43 not in json.dumps(cluster("a" * 43))


def test_the_head_keeps_its_state_in_redis() -> None:
    ref = {"name": "redis", "key": "password"}
    spec = rendered(head={"gcsFaultTolerance": {"redisAddress": "redis:6379", "passwordSecretRef": ref}})
    assert spec["rayClusterConfig"]["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis:6379",
        "redisPassword": {"valueFrom": {"secretKeyRef": ref}},
    }
    assert "gcsFaultToleranceOptions" not in rendered()["rayClusterConfig"]


def test_how_it_is_upgraded() -> None:
    assert rendered()["upgradeStrategy"] == {"type": "NewCluster"}
    spec = rendered(upgrade={"strategy": "None", "deletionDelaySeconds": 900})
    assert (spec["upgradeStrategy"], spec["rayClusterDeletionDelaySeconds"]) == ({"type": "None"}, 900)
