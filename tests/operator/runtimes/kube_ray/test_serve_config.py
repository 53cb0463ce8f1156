"""What Serve is told of a deployment that KubeRay runs."""

import json

import pytest
from kube_ray_objects import kube_ray_deployment, settled_config

from moe_operator.runtimes.kube_ray.manifests.serve_config import with_options_of
from moe_operator.runtimes.kube_ray.state import read_configs


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


@pytest.mark.parametrize(
    "foreign", ["[" * 200_000, '{"applications":[1]}', '{"applications":["x"]}', "null", "no JSON", "3"]
)
def test_what_somebody_else_wrote_for_serve_is_left_as_it_is(foreign: str) -> None:
    later = settled_config(kube_ray_deployment(shards=2))
    assert with_options_of(foreign, later) == foreign
    assert read_configs(foreign) == {}
