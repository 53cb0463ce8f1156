"""How pods get at the model, and at what opens it."""

import pytest
from kube_ray_objects import kube_ray_deployment, pods, settled_config

from moe_operator.kube.api import Json
from moe_operator.runtimes.kube_ray.manifests.ray_service import build_ray_service


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
