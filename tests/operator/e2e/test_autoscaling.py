"""The policy of the number of shards on real parts, under load: `make endurance` runs it."""

import json
import time

import pytest
from moe_objects import Objects
from ray_clients import CHANGE, START, Streams, reference, report, spec, tokens

from moe_dev.operator_process import OperatorProcess
from moe_dev.raylocal import LocalRay

pytestmark = [pytest.mark.e2e, pytest.mark.whole, pytest.mark.timeout(900)]

POLICY = {"minShards": 2, "maxShards": 4, "scaleUpAfter": "5s", "scaleDownAfter": "5s"}


def test_shards_come_and_go_by_the_policy_and_no_answer_fails(
    operator: OperatorProcess, on_ray: Objects, ray_cluster: LocalRay
) -> None:
    experts = {"slotsPerShard": 16, "autoscaling": {**POLICY, "targetUtilization": 5}}
    on_ray.apply("tiny", spec(ray_cluster, "models/tiny", model={"dtype": "float32"}, experts=experts))
    said = reference()
    on_ray.wait_ready("tiny", START)
    begin = report(on_ray, "tiny").shards
    with Streams(on_ray, "tiny", 8, said) as streams:
        began = time.monotonic()
        on_ray.wait("four shards", lambda: on_ray.status("tiny").get("readyShards") == 4, CHANGE)
        print(f"four shards serve {time.monotonic() - began:.1f} s after the load began")
        grown = {shard.index: shard.pid for shard in report(on_ray, "tiny").shards}
        assert {shard.index: shard.pid for shard in begin}.items() <= grown.items()
        # The same load, of which shards may now have nearly all their time: two are enough.
        target = {"spec": {"experts": {"autoscaling": {"targetUtilization": 95}}}}
        on_ray.patch("tiny", json.dumps(target))
        began = time.monotonic()
        on_ray.wait("two shards", lambda: on_ray.status("tiny").get("shards") == 2, CHANGE)
        print(f"two shards are left {time.monotonic() - began:.1f} s after the target was raised")
        streams.flowing()
    print(f"{streams.answers} answers in 8 streams, none failed or wrong")
    assert tokens(on_ray, "tiny") == said
    told = on_ray.status("tiny")["autoscaling"]
    for each in reversed(told["decisions"]):
        print(f"{each['fromShards']} → {each['toShards']} {each['reason']}: {each['message']}")
    assert (told["decisions"][0]["reason"], told["decisions"][0]["toShards"]) == ("BelowTarget", 2)
    assert told["decisions"][-1]["reason"] == "UtilizationAboveTarget"
    assert on_ray.condition("tiny", "AutoscalerConflict")["status"] == "False"
    # The API server names who wrote the number, and whoever writes it next is in the way.
    assert told["wrote"]
    on_ray.scale("tiny", 3)
    on_ray.wait_condition("tiny", "AutoscalerConflict", "True", "ForeignScaler")
    assert "written by kubectl after" in on_ray.condition("tiny", "AutoscalerConflict")["message"]
