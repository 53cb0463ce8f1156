"""What the operator reads from a stored object."""

from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest

from moe_operator.api import DeletionPolicy, MoEDeployment, MoEDeploymentStatus
from moe_operator.api.names import ANNOTATION_PAUSE, CLEANUP_FINALIZER
from moe_operator.errors import InvalidObjectError

DOWNLOAD = {"url": "s3://bucket/tiny", "sha256": "0" * 64}
RAY = {"dashboardURL": "http://127.0.0.1:8265", "serveURL": "http://127.0.0.1:8000/"}
STORED: dict[str, Any] = {
    "apiVersion": "moe-operator.io/v1alpha1",
    "kind": "MoEDeployment",
    "metadata": {"name": "tiny", "namespace": "team", "uid": "u-1", "generation": 3, "managedFields": []},
    "spec": {"model": {"source": {"path": "models/tiny"}}, "runtime": {"rayCluster": RAY}},
}


def stored(**spec: Any) -> dict[str, Any]:
    raw = deepcopy(STORED)
    raw["spec"] |= spec
    return raw


def test_defaults_are_those_of_the_design() -> None:
    moe = MoEDeployment.parse(STORED)
    assert moe.key == "team/tiny"
    assert (moe.spec.experts.shards, moe.spec.experts.copies.min, moe.spec.experts.slots_per_shard) == (1, 1, None)
    attention = moe.spec.attention
    assert (attention.min_replicas, attention.max_replicas, attention.target_ongoing_requests) == (1, 1, 8)
    api = moe.spec.api
    assert (api.min_replicas, api.max_replicas, api.target_ongoing_requests) == (2, 4, 64)
    assert moe.spec.deletion_policy is DeletionPolicy.DELETE
    assert not moe.spec.suspend
    assert not moe.deleting
    assert moe.served_name == "tiny"
    assert moe.model_path == "models/tiny"
    assert moe.status == MoEDeploymentStatus()


def test_what_an_existing_ray_cluster_cannot_follow_is_told_with_its_field() -> None:
    hub = {"repo": "a/b", "revision": "0" * 40}
    assert MoEDeployment.parse(stored(model={"source": {"huggingFace": hub}})).model_path == f"hf://a/b@{'0' * 40}"
    named = {"source": {"huggingFace": {**hub, "tokenSecretRef": {"name": "hub"}}}}
    with pytest.raises(
        InvalidObjectError, match=r"spec\.model\.source\.huggingFace\.tokenSecretRef needs runtime\.kube"
    ):
        assert MoEDeployment.parse(stored(model=named)).model_path
    kube_ray = {"kubeRay": {"image": "x"}}
    assert MoEDeployment.parse(stored(model=named, runtime=kube_ray)).model_path == f"hf://a/b@{'0' * 40}"


@pytest.mark.parametrize(
    ("serving", "prefix", "url"),
    [
        ({}, "/team/tiny", "http://127.0.0.1:8000/team/tiny/v1"),
        ({"routePrefix": "/x/y"}, "/x/y", "http://127.0.0.1:8000/x/y/v1"),
        ({"routePrefix": "/"}, "/", "http://127.0.0.1:8000/v1"),
    ],
)
def test_route_and_url(serving: dict[str, str], prefix: str, url: str) -> None:
    moe = MoEDeployment.parse(stored(serving=serving))
    assert (moe.route_prefix, moe.url_at(moe.route_prefix)) == (prefix, url)


def test_deletion_and_finalizer_are_read_from_metadata() -> None:
    raw = stored()
    raw["metadata"] |= {"deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": [CLEANUP_FINALIZER]}
    moe = MoEDeployment.parse(raw)
    assert moe.deleting
    assert moe.has_cleanup_finalizer


@pytest.mark.parametrize(
    ("spec", "fragment"),
    [
        ({"experts": {"shards": "many"}}, "spec.experts.shards"),
        ({"experts": {"shardz": 1}}, "spec.experts.shardz"),
        ({"attention": {"minReplicas": 0}}, "spec.attention.minReplicas"),
        ({"api": {"maxReplicas": 65}}, "spec.api.maxReplicas"),
    ],
)
def test_an_object_that_does_not_fit_names_the_field_and_the_cure(spec: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InvalidObjectError, match=f"{fragment}.*install the CRD"):
        MoEDeployment.parse(stored(**spec))


def test_status_fields_of_a_newer_release_are_dropped() -> None:
    status = {"shards": 2, "somethingNew": {"a": 1}, "conditions": []}
    assert MoEDeployment.parse(stored() | {"status": status}).status == MoEDeploymentStatus(shards=2)


def test_a_status_is_written_in_camel_case_without_nulls() -> None:
    status = MoEDeploymentStatus(observed_generation=3, ready_shards=2)
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert written == {"observedGeneration": 3, "readyShards": 2, "conditions": []}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"model": {"source": {"path": "models\0"}}}, "spec.model.source.path.*control character"),
        ({"model": {"source": {"path": "models\n"}}}, "spec.model.source.path.*control character"),
        ({"model": {"source": {"path": "a\u2028b"}}}, "spec.model.source.path.*control character"),
        ({"model": {"source": {"path": "a\u202eb"}}}, "spec.model.source.path.*control character"),
        ({"model": {"source": {"path": "a\u2069b"}}}, "spec.model.source.path.*control character"),
        ({"model": {"source": {"path": "a\u200bb"}}}, "spec.model.source.path.*control character"),
        ({"model": {"source": {"path": "models"}, "servedName": "tiny\n"}}, "spec.model.servedName"),
        ({"serving": {"routePrefix": "/tiny\n"}}, "spec.serving.routePrefix.*begin with '/'"),
        ({"serving": {"apiKeysSecretRef": {"name": "keys\n"}}}, "spec.serving.apiKeysSecretRef.name"),
        ({"runtime": {"rayCluster": {**RAY, "dashboardURL": "http://ray:99999"}}}, "dashboardURL.*from 1 to 65535"),
        ({"runtime": {"rayCluster": {**RAY, "serveURL": "http://①②⑦.0.0.1"}}}, "serveURL.*a host in ASCII"),
        ({"runtime": {"rayCluster": {**RAY, "serveURL": "http://127.1"}}}, "serveURL.*four decimal numbers"),
        (
            {"model": {"source": {"download": {**DOWNLOAD, "endpoint": "http://127.1"}}}},
            "spec.model.source.download.endpoint.*four decimal numbers",
        ),
    ],
)
def test_what_was_stored_before_there_was_a_rule_against_it_is_told(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidObjectError, match=says) as caught:
        MoEDeployment.parse(stored(**spec))
    assert str(caught.value).isprintable()
    assert "Value error" not in str(caught.value)


def test_an_object_store_may_have_no_address() -> None:
    source = {"download": {**DOWNLOAD, "endpoint": None}}
    download = MoEDeployment.parse(stored(model={"source": source})).spec.model.source.download
    assert download is not None
    assert download.endpoint is None


def test_other_alphabets_in_a_path_are_fine() -> None:
    path = "/models/Übung 1/模型/a\u200db"
    assert MoEDeployment.parse(stored(model={"source": {"path": path}})).model_path == path


@pytest.mark.parametrize(
    ("rebalance", "every", "serves_for", "rests_for", "rate", "link"),
    [
        # what is written, interval, horizon and cooldown in minutes, bytes per second of a shard and of a link
        ({}, 5, 60, 10, None, 1.25e9),
        ({"interval": "2h", "linkBytesPerSecond": "125M"}, 120, 120, 240, None, 1.25e8),
        ({"interval": "1m30s", "maxBytesPerSecond": "1.5Mi"}, 1.5, 60, 3, 1572864, 1.25e9),
        (
            {"interval": "0.5h", "horizon": "30m", "cooldown": "1h0.5m", "maxBytesPerSecond": "100k"},
            30,
            30,
            60.5,
            10**5,
            1.25e9,
        ),
    ],
)
def test_what_rebalance_leaves_open_follows_the_interval(
    rebalance: dict[str, Any], every: float, serves_for: float, rests_for: float, rate: int | None, link: float
) -> None:
    read = MoEDeployment.parse(stored(rebalance=rebalance)).spec.rebalance
    assert (read.every, read.serves_for, read.rests_for, read.bytes_per_second, read.link) == (
        timedelta(minutes=every),
        timedelta(minutes=serves_for),
        timedelta(minutes=rests_for),
        rate,
        link,
    )


@pytest.mark.parametrize("text", ["", "5", "5 m", "-5m", "5m3h", "1d", "1.2345h", "٥m", "5m\n", "inf"])
def test_what_is_no_duration_is_told_with_the_cure(text: str) -> None:
    with pytest.raises(InvalidObjectError, match=r"(?s)is no duration: write hours, minutes and seconds, e\.g\. 1h"):
        MoEDeployment.parse(stored(rebalance={"interval": text}))


@pytest.mark.parametrize("text", ["", "1 Gi", "1gi", "1e3", "-1", "1Ei", "٣", "1\n"])
def test_what_is_no_amount_of_bytes_is_told_with_the_cure(text: str) -> None:
    with pytest.raises(InvalidObjectError, match=r"is no amount of bytes: write e\.g\. 100M, 1Gi"):
        MoEDeployment.parse(stored(rebalance={"maxBytesPerSecond": text}))


def test_of_annotations_only_our_own_are_read() -> None:
    raw = stored()
    raw["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 9, ANNOTATION_PAUSE: ""}
    moe = MoEDeployment.parse(raw)
    assert dict(moe.metadata.annotations) == {ANNOTATION_PAUSE: ""}


@pytest.mark.parametrize(("value", "paused"), [(None, False), ("false", False), ("true", True), ("", True)])
def test_the_annotation_pauses_unless_it_is_false(value: str | None, paused: bool) -> None:
    raw = stored()
    raw["metadata"]["annotations"] = {} if value is None else {ANNOTATION_PAUSE: value}
    assert MoEDeployment.parse(raw).rebalance_paused is paused
