"""Which Ray cluster answers, and where its head is."""

import pytest

from moe_operator.runtimes.kube_ray import clusters

GOES = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(("metadata", "phase"), [(GOES, "Running"), ({}, "Failed"), ({}, "Succeeded")])
def test_nobody_asks_a_head_that_has_ended_or_goes(metadata: dict[str, str], phase: str) -> None:
    labels = {"ray.io/cluster": "tiny-1", "moe-operator.io/component": "ray-head"}
    gone = {"metadata": {"labels": labels, **metadata}, "status": {"phase": phase, "podIP": "10.0.0.1"}}
    lives = {"metadata": {"labels": labels}, "status": {"phase": "Running", "podIP": "10.0.0.2"}}
    assert clusters.head_url("tiny-1", [gone, lives]) == f"http://10.0.0.2:{clusters.SERVE_PORT}"
    assert clusters.head_url("tiny-1", [gone]) is None
    newer = {"activeServiceStatus": {"rayClusterName": "tiny-2"}}
    assert clusters.clusters_of(newer, "tiny-1", [lives]).answering == "tiny-1"
    assert clusters.clusters_of(newer, "tiny-1", [gone]).answering == "tiny-2"
