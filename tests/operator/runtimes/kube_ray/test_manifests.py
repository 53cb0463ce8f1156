"""What is rendered of a deployment that KubeRay runs."""

import importlib.metadata
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from kube_ray_objects import IMAGE, TOKEN, all_manifests, kube_ray_deployment, settled_config

from moe_contract.pods import LEAVING_FILE_VARIABLE
from moe_operator.kube.api import Json
from moe_operator.release import RAY_VERSION
from moe_operator.runtimes.kube_ray.clusters import of_pods
from moe_operator.runtimes.kube_ray.manifests.network import Whereabouts, build_policies
from moe_operator.runtimes.kube_ray.manifests.pods import ANSWERS_SECONDS, GRACE_SECONDS, UNNOTICED_SECONDS
from moe_operator.runtimes.kube_ray.manifests.ray_service import build_ray_service, fewest_steps
from moe_operator.runtimes.kube_ray.manifests.serve_config import with_options_of
from moe_operator.runtimes.kube_ray.manifests.service import build_service, selected_cluster
from moe_operator.runtimes.kube_ray.state import read_configs

ENVIRONMENT = {"PATH": os.environ["PATH"], "FQ_RAY_IP": "127.0.0.1", "LC_ALL": "C"}


def rendered(**kube_ray: Any) -> Json:
    return build_ray_service(kube_ray_deployment(kube_ray, shards=2), "", 2, TOKEN)["spec"]


def pods(spec: Json) -> list[Json]:
    cluster = spec["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_version_of_ray_is_the_one_that_serving_pins() -> None:
    requires = importlib.metadata.requires("moe-operator") or []
    assert [each for each in requires if each.startswith(f"ray[serve]=={RAY_VERSION};")]


def test_serve_is_told_the_same_as_elsewhere_and_each_process_where_it_belongs() -> None:
    moe = kube_ray_deployment(shards=2)
    told = json.loads(settled_config(moe))
    assert (told["proxy_location"], told["http_options"]) == ("EveryNode", {"host": "0.0.0.0", "port": 8000})
    core, *shards = told["applications"]
    assert [each["ray_actor_options"] for each in core["deployments"]] == [
        {"num_cpus": 0, "resources": {"attention": 0.01}},
        {"num_cpus": 0, "resources": {"attention": 0.6}},
        {"num_cpus": 0, "resources": {"attention": 0.01}},
    ]
    assert [each["route_prefix"] for each in (core, *shards)] == ["/team/tiny", None, None]
    for shard in shards:
        (experts,) = shard["deployments"]
        assert experts["ray_actor_options"] == {"num_cpus": 0, "resources": {"moe_shard": 1}}


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


def test_a_worker_waits_for_the_port_of_its_head_before_ray_starts() -> None:
    head, *workers = pods(rendered())
    assert "initContainers" not in head
    (first,), (second,) = (pod["initContainers"] for pod in workers)
    assert first == second
    assert first["image"] == IMAGE
    assert first["securityContext"]["readOnlyRootFilesystem"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = str(listening.getsockname()[1])
        command = [part.replace("/6379", f"/{here}") for part in first["command"]]
        found = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False)
        assert found.returncode == 0, found.stderr
    with socket.socket() as later:
        later.bind(("127.0.0.1", 0))  # nobody else has it, and who connects is refused
        here = str(later.getsockname()[1])
        command = [part.replace("/6379", f"/{here}") for part in first["command"]]
        waiting = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        try:
            assert "refused" in waiting.stderr.readline()
            later.listen()
            assert waiting.wait(30) == 0
        finally:
            waiting.kill()
            waiting.wait()
            waiting.stderr.close()


def test_in_a_pod_for_a_shard_a_process_waits_for_it() -> None:
    """Ray starts as many as the pod has processors in its counting."""
    head, attention, experts = (
        {each["name"]: each["value"] for each in of["containers"][0]["env"]} for of in pods(rendered())
    )
    assert experts.items() - attention.items() == {
        ("RAY_enable_worker_prestart", "1"),
        ("RAY_preload_python_modules", "moe_serving.serve.warm"),
    }
    assert head.items() <= attention.items()


def test_a_head_is_ready_soon_and_no_sooner_called_unready_than_by_kube_ray() -> None:
    head, *workers = (pod["containers"][0] for pod in pods(rendered()))
    probe = head["readinessProbe"]
    assert probe["httpGet"] == {"path": "/api/healthz", "port": 52365}
    assert probe["initialDelaySeconds"] + probe["periodSeconds"] < 5
    assert probe["periodSeconds"] * probe["failureThreshold"] == 50
    # Of those KubeRay asks for Serve's proxy too.
    assert all("readinessProbe" not in worker for worker in workers)


def test_no_pod_has_a_log_monitor() -> None:
    """KubeRay leaves out what is ``false``, and takes ``true`` for a flag without a value."""
    cluster = rendered()["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert [group["rayStartParams"]["include-log-monitor"] for group in groups] == ["0"] * 3


def test_ray_is_closed_to_whoever_has_not_our_token() -> None:
    assert rendered()["rayClusterConfig"]["authOptions"] == {"mode": "token", "secretName": "tiny-moe-ray-token"}


def test_pods_pass_the_restricted_standard_with_a_root_that_cannot_be_written_to() -> None:
    for pod in pods(rendered()):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    autoscaler = rendered()["rayClusterConfig"]["autoscalerOptions"]
    assert autoscaler["securityContext"]["readOnlyRootFilesystem"] is True
    assert autoscaler["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


FIELDS: list[tuple[Json, str, list[Any]]] = [
    # spec.runtime.kubeRay, field of a pod's spec, its value in head, attention workers and expert workers
    ({"priorityClassName": "high"}, "priorityClassName", ["high"] * 3),
    ({"serviceAccountName": "moe"}, "serviceAccountName", ["moe"] * 3),
    ({"imagePullSecrets": [{"name": "pull"}]}, "imagePullSecrets", [[{"name": "pull"}]] * 3),
    ({"head": {"nodeSelector": {"pool": "cpu"}}}, "nodeSelector", [{"pool": "cpu"}, None, None]),
    ({"expertWorkers": {"nodeSelector": {"pool": "gpu"}}}, "nodeSelector", [None, None, {"pool": "gpu"}]),
    (
        {"attentionWorkers": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}},
        "tolerations",
        [None, [{"key": "gpu", "operator": "Exists"}], None],
    ),
    ({"expertWorkers": {"topologySpreadConstraints": []}}, "topologySpreadConstraints", [None, "a spread", None]),
]


@pytest.mark.parametrize(("fields", "name", "expected"), FIELDS)
def test_pod_fields_are_passed_through(fields: Json, name: str, expected: list[Any]) -> None:
    found = [pod.get(name) for pod in pods(rendered(**fields))]
    assert ["a spread" if name.startswith("topology") and value else value for value in found] == expected


def test_resources_and_volumes_are_passed_through() -> None:
    resources = {"requests": {"cpu": "500m"}, "limits": {"memory": "4Gi"}}
    volume = {"name": "models", "claimName": "shared-models", "mountPath": "/models"}
    spec = rendered(expertWorkers={"resources": resources}, volumes=[volume], imagePullPolicy="Always")
    head, _, experts = pods(spec)
    assert experts["containers"][0]["resources"] == resources
    assert "resources" not in head["containers"][0]
    for pod in pods(spec):
        (container,) = pod["containers"]
        assert (container["image"], container["imagePullPolicy"]) == (IMAGE, "Always")
        assert container["volumeMounts"][1] == {"name": "models", "mountPath": "/models", "readOnly": True}
        claim = {"claimName": "shared-models", "readOnly": True}
        assert pod["volumes"][1] == {"name": "models", "persistentVolumeClaim": claim}


def mounted(source: Json) -> list[Json | None]:
    """Of head, attention and expert workers: what is mounted beside /tmp, as ``{path: volume}``."""
    moe = kube_ray_deployment(shards=2, spec={"model": {"source": source}})
    found: list[Json | None] = []
    for pod in pods(build_ray_service(moe, settled_config(moe), 2, "t")["spec"]):
        volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert all(mount.get("readOnly") for mount in container["volumeMounts"][1:])
        found.append({mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"][1:]})
    return found


def test_a_token_of_the_hub_is_a_file_in_pods_that_read_the_model_and_nowhere_else() -> None:
    source = {"huggingFace": {"repo": "a/b", "revision": "0" * 40, "tokenSecretRef": {"name": "hub"}}}
    folder = "/var/run/secrets/moe-operator.io/model-source"
    secret = {"secretName": "hub", "defaultMode": 0o440}
    assert mounted(source) == [{}, {folder: {"secret": secret}}, {folder: {"secret": secret}}]
    moe = kube_ray_deployment(shards=2, spec={"model": {"source": source}})
    assert "hub" not in settled_config(moe)
    for pod in pods(build_ray_service(moe, "", 2, "t")["spec"])[1:]:
        of_the_token = [each for each in pod["containers"][0]["env"] if "TOKEN" in each["name"]]
        assert of_the_token == [{"name": "HF_TOKEN_PATH", "value": f"{folder}/token"}]


def test_credentials_of_a_download_are_files_likewise() -> None:
    download = {"url": "s3://a/b/", "endpoint": "https://c", "sha256": "0" * 64, "secretRef": {"name": "keys"}}
    folder = "/var/run/secrets/moe-operator.io/model-source"
    secret = {folder: {"secret": {"secretName": "keys", "defaultMode": 0o440}}}
    assert mounted({"download": download}) == [{}, secret, secret]
    moe = kube_ray_deployment(shards=2, spec={"model": {"source": {"download": download}}})
    assert moe.model_path == f"s3://a/b#sha256={'0' * 64}&endpoint=https%3A%2F%2Fc"
    for pod in pods(build_ray_service(moe, "", 2, "t")["spec"])[1:]:
        assert {"name": "MOE_MODEL_SECRET", "value": folder} in pod["containers"][0]["env"]


@pytest.mark.parametrize(
    ("source", "volume"),
    [
        ({"pvc": {"claimName": "models"}}, {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}),
        (
            {"image": {"reference": "example.org/tiny:1"}},
            {"image": {"reference": "example.org/tiny:1", "pullPolicy": "IfNotPresent"}},
        ),
    ],
)
def test_a_claim_or_an_image_is_mounted_where_the_data_plane_looks_for_it(source: Json, volume: Json) -> None:
    moe = kube_ray_deployment(spec={"model": {"source": source}})
    assert mounted(source) == [{}, {moe.model_path: volume}, {moe.model_path: volume}]
    kind = next(iter(source))
    deeper = kube_ray_deployment(spec={"model": {"source": {kind: {**source[kind], "path": "a/b"}}}})
    assert deeper.model_path == f"{moe.model_path}/a/b"


def test_another_image_is_another_path() -> None:
    first, second = (
        kube_ray_deployment(spec={"model": {"source": {"image": {"reference": name}}}}).model_path for name in "ab"
    )
    assert first != second


def test_shards_land_on_distinct_nodes_where_there_are_any() -> None:
    spread = pods(rendered())[2]["topologySpreadConstraints"]
    assert spread == [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {
                "matchLabels": {
                    "moe-operator.io/deployment": "tiny",
                    "moe-operator.io/component": "expert-shard",
                }
            },
            "matchLabelKeys": ["ray.io/cluster"],
        }
    ]


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


RAYS_SECONDS = 30
"""For which Ray 2.60 waits for what runs on a node whose first process is asked to end."""


def test_a_pod_that_clients_are_connected_to_is_told_that_it_ends_before_its_processes_do(tmp_path: Path) -> None:
    head, attention, experts = pods(rendered())
    for other in (head, experts):
        assert "lifecycle" not in other["containers"][0]
        assert "terminationGracePeriodSeconds" not in other
    (container,) = attention["containers"]
    assert max(ANSWERS_SECONDS, UNNOTICED_SECONDS + RAYS_SECONDS) < attention["terminationGracePeriodSeconds"]
    assert attention["terminationGracePeriodSeconds"] == GRACE_SECONDS
    shell, option, hook = container["lifecycle"]["preStop"]["exec"]["command"]
    told = {each["name"]: each["value"] for each in container["env"]}[LEAVING_FILE_VARIABLE]
    hook, wait = hook.replace(told, str(tmp_path / "told")).split("; ")
    assert wait == f"sleep {UNNOTICED_SECONDS}"
    subprocess.run([shell, option, hook], check=True)
    assert abs(float((tmp_path / "told").read_text()) - time.time() - ANSWERS_SECONDS) < 60


def test_clients_reach_pods_with_an_api_and_no_others() -> None:
    moe = kube_ray_deployment()
    service = build_service(moe, "tiny-abcde")
    assert service["spec"]["selector"] == {"ray.io/cluster": "tiny-abcde", "ray.io/group": "attention"}
    assert f"http://{service['metadata']['name']}.team.svc:8000/team/tiny/v1" == moe.url_at("/team/tiny")
    assert selected_cluster(service) == "tiny-abcde"
    assert selected_cluster(build_service(moe, None)) is None
    assert rendered()["excludeHeadPodFromServeSvc"] is True


def test_who_may_connect() -> None:
    among, head, api = [each["spec"] for each in build_policies(kube_ray_deployment(), Whereabouts())]
    assert among["ingress"] == [{"from": [{"podSelector": {"matchLabels": {"moe-operator.io/deployment": "tiny"}}}]}]
    assert [[port["port"] for port in rule["ports"]] for rule in head["ingress"]] == [[8265, 8000], [8000]]
    of_kube_ray, of_operator = [rule["from"][0]["podSelector"] for rule in head["ingress"]]
    (named,) = of_kube_ray["matchExpressions"]
    assert (named["operator"], named["values"]) == ("In", ["kuberay", "kuberay-operator"])
    assert of_operator == {"matchLabels": {"moe-operator.io/component": "operator"}}
    assert api["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]
    peers = [{"podLabels": {"app": "web"}}, {"namespaceLabels": {}, "podLabels": {}}]
    *_, api = [each["spec"] for each in build_policies(kube_ray_deployment({"apiFrom": peers}), Whereabouts())]
    assert api["ingress"][0]["from"] == [
        {"podSelector": {"matchLabels": {"app": "web"}}},
        {"podSelector": {}, "namespaceSelector": {}},
    ]


def test_heads_are_reached_from_the_namespaces_of_both_operators_alone() -> None:
    def namespaces(whereabouts: Whereabouts) -> list[Json]:
        _, head, _ = build_policies(kube_ray_deployment(), whereabouts)
        return [rule["from"][0]["namespaceSelector"] for rule in head["spec"]["ingress"]]

    def named(*names: str) -> Json:
        label = "kubernetes.io/metadata.name"
        return {"matchExpressions": [{"key": label, "operator": "In", "values": list(names)}]}

    assert namespaces(Whereabouts(("default", "ray"), ("moe-system",))) == [
        named("default", "ray"),
        named("moe-system"),
    ]
    assert namespaces(Whereabouts()) == [{}, {}]


def test_every_child_goes_with_its_owner_and_says_whose_it_is() -> None:
    for manifest in all_manifests(kube_ray_deployment(shards=2)):
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert (owner["name"], owner["uid"], owner["controller"]) == ("tiny", "u-1", True)
        assert manifest["metadata"]["labels"]["moe-operator.io/deployment"] == "tiny"


@pytest.mark.parametrize(
    "foreign", ["[" * 200_000, '{"applications":[1]}', '{"applications":["x"]}', "null", "no JSON", "3"]
)
def test_what_somebody_else_wrote_for_serve_is_left_as_it_is(foreign: str) -> None:
    later = settled_config(kube_ray_deployment(shards=2))
    assert with_options_of(foreign, later) == foreign
    assert read_configs(foreign) == {}
