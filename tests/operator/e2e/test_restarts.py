"""Operators that end, the orderly way or not, and those that take over; deletions that cannot succeed."""

import pytest
from aiohttp import web
from fake_ray import FakeDirectory, FakeRay
from moe_objects import REMOVED, TOLD

pytestmark = [pytest.mark.e2e, pytest.mark.waits]


async def broken(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="Traceback")


def test_a_killed_operator_is_continued_and_its_deletions_are_made_up_for(
    start_operator, objects, ray: FakeRay, directory: FakeDirectory
) -> None:
    operator = start_operator()
    objects.apply("deleted", ray.spec())
    objects.wait_ready("deleted")
    directory.answers = False
    objects.apply("begun", ray.spec())
    objects.wait("its core application", lambda: ray.runs(objects.namespace, "begun") == ["core"])
    operator.kill()
    directory.answers = True
    objects.delete("deleted")
    assert objects.get("deleted") is not None
    assert ray.runs(objects.namespace, "deleted") == ["core", "experts-0", "experts-1"]
    start_operator()
    # The killed one's Lease has to run out first.
    objects.wait_gone("deleted", REMOVED)
    assert ray.runs(objects.namespace, "deleted") == []
    objects.wait_ready("begun")
    assert objects.status("begun")["placement"]["revision"] == 1


def test_a_standby_takes_over_and_moves_nothing(start_operator, objects, ray: FakeRay) -> None:
    leader, standby = start_operator(), start_operator()
    objects.apply("tiny", ray.spec())
    objects.wait_ready("tiny")
    assert "moe_operator_leader 1.0" in objects.metrics(leader)
    assert "moe_operator_leader 0.0" in objects.metrics(standby)
    shards = {name: config for name, config in ray.configs.items() if "experts-" in name}
    placement = objects.status("tiny")["placement"]
    puts = len(ray.puts)

    leader.stop()
    assert leader.process.exit_code == 0
    objects.wait("the new leader's term", lambda: len(ray.puts) == puts + 1)
    assert "moe_operator_leader 1.0" in objects.metrics(standby)
    gets = ray.gets
    objects.wait("the new leader to look again", lambda: ray.gets >= gets + 2)
    assert len(ray.puts) == puts + 1
    assert {name: config for name, config in ray.configs.items() if "experts-" in name} == shards
    assert objects.status("tiny")["placement"] == placement
    objects.scale("tiny", 3)
    objects.wait_settled("tiny", 2)


def test_a_cleanup_that_cannot_succeed_is_given_up(start_operator, objects, ray: FakeRay) -> None:
    operator = start_operator("--cleanup-deadline=10", f"--namespace={objects.namespace}")
    objects.apply("tiny", ray.spec())
    objects.wait_ready("tiny")
    ray.override = broken
    objects.delete("tiny")
    objects.wait_condition("tiny", "Degraded", "True", "RayUnreachable")
    assert objects.condition("tiny", "Ready")["reason"] == "Deleting"
    objects.wait_gone("tiny")
    (event,) = objects.events("CleanupAbandoned")
    assert ray.url in event["note"]
    assert "cleanups_abandoned_total 1.0" in objects.metrics(operator)


def test_an_address_that_the_operator_may_not_connect_to(start_operator, objects, ray: FakeRay) -> None:
    start_operator("--allowed-ray-address=10.0.0.0/8")
    objects.apply("tiny", ray.spec())
    objects.wait_condition("tiny", "Ready", "False", "RayAddressRefused", TOLD)
    assert "10.0.0.0/8" in objects.condition("tiny", "Ready")["message"]
    assert ray.gets == 0
