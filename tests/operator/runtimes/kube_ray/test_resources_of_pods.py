"""What pods ask of their nodes, so that processes have what they ask for."""

import json
from typing import Any

import pytest
from kube_ray_objects import TOKEN, kube_ray_deployment, settled_config

from moe_operator.kube.api import Json
from moe_operator.runtimes.kube_ray.manifests.ray_service import build_ray_service


def test_pods_have_what_their_process_asks_for() -> None:
    resources = {"gpus": 0.5, "accelerator": "H100", "labelSelector": {"zone": "a"}}
    more = {"expertWorkers": {"nodeSelector": {"pool": "gpu"}, "resources": {"limits": {"memory": "9Gi"}}}}
    moe = kube_ray_deployment(more, shards=2, resources=resources)
    attention, experts = build_ray_service(moe, "", 2, TOKEN)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    offered = {"CPU": "1", "moe_shard": "1", "GPU": "1", "accelerator_type:H100": "1"}
    assert (experts["resources"], experts["labels"]) == (offered, {"zone": "a"})
    pod = experts["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1", "memory": "9Gi"}
    assert attention["resources"] == {"CPU": "0", "attention": "1"}
    process = json.loads(settled_config(moe))["applications"][1]["deployments"][0]["ray_actor_options"]
    assert (process["num_gpus"], process["resources"]) == (0.5, {"moe_shard": 1})


PRODUCT = {
    "key": "nvidia.com/gpu.product",
    "operator": "In",
    "values": ["NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe", "NVIDIA-H100-NVL"],
}


NODES: list[tuple[Json, list[list[Json]] | None, Json | None]] = [
    # resources, the expressions of each term of the node affinity, labels for Ray
    ({"gpus": 1}, None, None),
    ({"labelSelector": {"zone": "a"}}, [[{"key": "zone", "operator": "In", "values": ["a"]}]], {"zone": "a"}),
    ({"labelSelector": {"zone": "!a"}}, [[{"key": "zone", "operator": "NotIn", "values": ["a"]}]], None),
    (
        {"labelSelector": {"zone": "in(a, b)", "disk": "!in(slow,old)"}},
        [
            [
                {"key": "disk", "operator": "NotIn", "values": ["slow", "old"]},
                {"key": "zone", "operator": "In", "values": ["a", "b"]},
            ]
        ],
        {"zone": "a"},
    ),
    (
        {"gpus": 1, "accelerator": "H100", "labelSelector": {"zone": "a"}},
        [
            [
                {"key": "zone", "operator": "In", "values": ["a"]},
                {"key": "ray.io/accelerator-type", "operator": "In", "values": ["H100"]},
            ],
            [{"key": "zone", "operator": "In", "values": ["a"]}, PRODUCT],
        ],
        {"zone": "a"},
    ),
    (
        {"accelerator": "MyChip"},
        [[{"key": "ray.io/accelerator-type", "operator": "In", "values": ["MyChip"]}]],
        None,
    ),
]


@pytest.mark.parametrize(("resources", "terms", "labels"), NODES)
def test_pods_come_to_nodes_that_have_what_is_asked_for(resources: Json, terms: Any, labels: Any) -> None:
    service = build_ray_service(kube_ray_deployment(shards=2, resources=resources), "", 2, TOKEN)
    attention, experts = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert experts.get("labels") == labels
    affinity = experts["template"]["spec"].get("affinity")
    if terms is None:
        assert affinity is None
    else:
        required = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert [term["matchExpressions"] for term in required["nodeSelectorTerms"]] == terms
    assert "affinity" not in attention["template"]["spec"]
