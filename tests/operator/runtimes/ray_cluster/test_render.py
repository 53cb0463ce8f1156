"""What a deployment shall run, as Serve is told it."""

from typing import Any

import pytest
from data_plane import DataPlane, deployment

from moe_contract.serve.merge import Change, Config
from moe_operator.reconcile.intent import RETRY_SECONDS
from moe_operator.runtimes.port import ApplicationPhase
from moe_operator.runtimes.ray_cluster.render import change_of, serve_http_options


def rendered(plane: DataPlane) -> Change:
    intent = plane.decide()
    return change_of(plane.moe, intent.desired, intent.without)


def deployments(application: Config) -> dict[str, Any]:
    return {each["name"]: each for each in application["deployments"]}


def test_all_that_is_desired_is_rendered() -> None:
    plane = DataPlane(deployment(shards=2))
    plane.settle()
    change = rendered(plane)
    assert change.core == plane.name
    assert [each["name"] for each in change.applications] == [plane.name, *plane.shard_names]
    assert [each["route_prefix"] for each in change.applications] == ["/team/tiny", None, None]
    plane.set_phase(plane.shard_names[1], ApplicationPhase.FAILED)
    plane.more = {"failed_seconds": {plane.shard_names[1]: RETRY_SECONDS}}
    assert [each["name"] for each in rendered(plane).applications] == [plane.name, plane.shard_names[0]]
    plane.change(shards=0)
    assert rendered(plane).applications == ()


def test_settings_travel_in_user_config_only() -> None:
    plane = DataPlane(deployment(shards=2))
    plane.settle()
    before = rendered(plane)
    model = {"model": {"source": {"path": "models/tiny"}, "servedName": "other"}}
    plane.change(shards=2, spec={**model, "attention": {"maxReplicas": 3}, "serving": {"queue": {"maxTokens": 900}}})
    after = rendered(plane)
    assert [a["args"] for a in before.applications] == [a["args"] for a in after.applications]
    assert before.applications[1:] == after.applications[1:]
    was, now = deployments(before.applications[0]), deployments(after.applications[0])
    assert now["api"]["user_config"] == was["api"]["user_config"] | {"served_name": "other", "queue_tokens": 900}
    assert now["attention"]["user_config"] == was["attention"]["user_config"] | {"queue_tokens": 900}
    assert now["attention"]["autoscaling_config"] == was["attention"]["autoscaling_config"] | {"max_replicas": 3}
    assert now["directory"] == was["directory"]


@pytest.mark.parametrize(
    ("serve_url", "options"),
    [
        ("http://127.0.0.1:8000", {"host": "127.0.0.1", "port": 8000}),
        ("http://localhost:9000/", {"host": "127.0.0.1", "port": 9000}),
        ("http://[::1]:8000", {"host": "::1", "port": 8000}),
        ("http://ray-head:8000", None),
    ],
)
def test_serve_is_started_on_loopback_where_it_is_reached_there(serve_url: str, options: Any) -> None:
    runtime = {"rayCluster": {"dashboardURL": "http://ray:8265", "serveURL": serve_url}}
    assert serve_http_options(deployment(spec={"runtime": runtime})) == options
