"""GPUs on a real Ray: asked for, told of where nobody has them, and changed while answers stream. They are declared.

``test_the_main_job`` asks for some too."""

import time
from typing import Any

import pytest
from moe_objects import TOLD, Objects
from ray_clients import CHANGE, START, Streams, gpus_asked, reference, replicas, spec

from moe_dev.raylocal import LocalRay
from moe_operator.api import Reason

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def pids(ray: LocalRay, role: str) -> set[int]:
    return {pid for pid, _ in replicas(ray, role)}


@pytest.mark.whole
def test_gpus_are_asked_for_and_changed_while_answers_stream(operator, on_ray: Objects, ray_cluster: LocalRay) -> None:
    def spec_with(gpus: float, **more: Any) -> dict[str, Any]:
        experts = {"copies": {"min": 2}, "slotsPerShard": 16, "resources": {"gpus": gpus, **more}}
        attention = {"resources": {"gpus": 0.5}}
        return spec(ray_cluster, model={"dtype": "float32"}, experts=experts, attention=attention)

    said = reference()
    on_ray.apply("tiny", spec_with(1))
    on_ray.wait_ready("tiny", START)
    assert gpus_asked(ray_cluster, "experts") == [1.0, 1.0]
    assert (gpus_asked(ray_cluster, "attention"), gpus_asked(ray_cluster, "api")) == ([0.5], [0.0])
    shards, attention = pids(ray_cluster, "experts"), pids(ray_cluster, "attention")

    with Streams(on_ray, "tiny", 4, said) as streams:
        streams.flowing()
        on_ray.apply("tiny", spec_with(1, accelerator="H100"))
        on_ray.wait_condition("tiny", "Degraded", "True", Reason.INSUFFICIENT_RESOURCES, TOLD)
        message = on_ray.condition("tiny", "Degraded")["message"]
        assert "spec.experts.resources.accelerator is H100, and no node of the Ray cluster has it" in message
        streams.flowing()
        assert pids(ray_cluster, "experts") == shards
        on_ray.apply("tiny", spec_with(0.5))
        fewest, deadline = 2, time.monotonic() + CHANGE
        while gpus_asked(ray_cluster, "experts") != [0.5, 0.5]:
            fewest = min(fewest, len(pids(ray_cluster, "experts")))
            assert time.monotonic() < deadline, f"waited {CHANGE:.0f} s for GPUs: {replicas(ray_cluster, 'experts')}"
            time.sleep(0.5)
        on_ray.wait_settled("tiny", 3, CHANGE)
        streams.flowing()
    assert fewest >= 1  # one after the other
    assert not pids(ray_cluster, "experts") & shards
    assert pids(ray_cluster, "attention") == attention
