"""Pod templates: how pods start, what they may, what is passed through, how they end."""

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from kube_ray_objects import IMAGE, pods, rendered

from moe_contract.pods import LEAVING_FILE_VARIABLE
from moe_operator.kube.api import Json
from moe_operator.runtimes.kube_ray.manifests.pods import ANSWERS_SECONDS, GRACE_SECONDS, UNNOTICED_SECONDS

ENVIRONMENT = {"PATH": os.environ["PATH"], "FQ_RAY_IP": "127.0.0.1", "LC_ALL": "C"}


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
