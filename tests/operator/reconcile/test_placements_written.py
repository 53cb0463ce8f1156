"""What is written of ExpertPlacements: no more and no oftener than need be, and what an API server refuses of it."""

import asyncio
from typing import Any

import pytest
from bench import Bench
from fake_kube import FakeKube
from moe_facts import FACTS
from written_placements import SlowDirectory, write

from moe_operator.kube.errors import ForbiddenError, KubeUnreachableError
from moe_operator.kube.resources import EXPERT_PLACEMENTS, Resource
from moe_operator.placements import attempts


async def test_without_the_right_to_write_them_serving_goes_on(bench: Bench, caplog: Any) -> None:
    class Forbidding(FakeKube):
        tries = 0

        async def create(self, resource: Resource, body: Any) -> Any:
            if resource == EXPERT_PLACEMENTS:
                self.tries += 1
                raise ForbiddenError("cannot create resource expertplacements", 403)
            return await super().create(resource, body)

    kube = bench.kube = Forbidding()
    bench.restart()
    bench.apply()
    await bench.ready()
    assert bench.phases() == {}
    assert kube.tries == 1
    assert "cannot create resource expertplacements" in caplog.text
    await bench.work(3, seconds=5.0)
    assert bench.condition("Degraded") == "True KubernetesRefused"
    assert bench.condition("Ready") == "True Available"
    # What stands in the way of one stands in no other's.
    write(bench, 2, 1)
    await bench.work()
    assert bench.judged(2, "Valid") == "True Fits"
    await bench.work(60, seconds=1.0)
    assert kube.tries <= 7


async def test_one_write_that_is_refused_stands_in_no_others_way(bench: Bench) -> None:
    class Refusing(FakeKube):
        tries = 0

        async def replace(self, resource: Resource, body: Any, subresource: str | None = None) -> Any:
            if body["metadata"]["name"] == "tiny-r2":
                self.tries += 1
                raise ForbiddenError("denied by a policy", 403)
            return await super().replace(resource, body, subresource)

    kube = bench.kube = Refusing()
    bench.restart()
    bench.apply()
    await bench.ready()
    write(bench, 2, 1)
    write(bench, 3, 1)
    await bench.work()
    assert bench.phases() == {1: "Active", 2: "", 3: "Proposed"}
    await bench.work(60, seconds=1.0)
    assert kube.tries <= 7
    assert bench.condition("Degraded") == "True KubernetesRefused"
    bench.kube.drop(EXPERT_PLACEMENTS, "tiny-r2")
    await bench.work(2, seconds=5.0)
    assert bench.condition("Degraded") == "False AsExpected"


async def test_a_slow_api_server_takes_little_of_a_pass(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(FakeKube):
        async def replace(self, resource: Resource, body: Any, subresource: str | None = None) -> Any:
            if resource == EXPERT_PLACEMENTS and body["metadata"]["name"] != "tiny-r1":
                await asyncio.sleep(60.0)
            return await super().replace(resource, body, subresource)

    monkeypatch.setattr(attempts, "SECONDS", 0.2)
    bench.kube = Slow()
    bench.restart()
    bench.apply()
    await bench.ready()
    write(bench, 2, 1)
    async with asyncio.timeout(30.0):
        await bench.work()
    assert bench.condition("Ready") == "True Available"


async def test_only_the_object_that_was_compared_is_approved(bench: Bench) -> None:
    class Replaced(FakeKube):
        async def replace(self, resource: Resource, body: Any, subresource: str | None = None) -> Any:
            answer = await super().replace(resource, body, subresource)
            if resource == EXPERT_PLACEMENTS and body["metadata"]["uid"] != "u-another":
                other = {**answer, "metadata": {**answer["metadata"], "uid": "u-another"}}
                self.put(resource, {**other, "status": {}})
            return answer

    bench.kube = Replaced()
    bench.restart()
    bench.apply()
    while not bench.phases():
        await bench.work()
    assert bench.placement(1)["metadata"]["uid"] == "u-another"
    assert bench.placement(1)["spec"]["decision"] == "Pending"


async def test_who_wrote_one_is_known_also_where_that_could_not_be_told_at_once(bench: Bench) -> None:
    class Hiccup(FakeKube):
        failed = False

        async def create(self, resource: Resource, body: Any) -> Any:
            fields = {"manager": "moe-operator", "operation": "Update", "fieldsV1": {"f:spec": {"f:content": {}}}}
            return await super().create(resource, {**body, "metadata": {**body["metadata"], "managedFields": [fields]}})

        async def replace(self, resource: Resource, body: Any, subresource: str | None = None) -> Any:
            if resource == EXPERT_PLACEMENTS and not self.failed:
                self.failed = True
                raise KubeUnreachableError("no answer")
            return await super().replace(resource, body, subresource)

    bench.kube = Hiccup()
    bench.restart()
    bench.apply()
    while not bench.phases():
        await bench.work()
    bench.restart()
    await bench.work(3, seconds=5.0)
    assert bench.placement(1)["status"]["origin"] == "Operator"
    assert bench.placement(1)["spec"]["decision"] == "Approved"


async def test_many_are_told_over_several_passes(ready: Bench) -> None:
    for number in range(2, 32):
        write(ready, number, 1)
    told = []
    for _ in range(5):
        await ready.work()
        told.append(sum(phase != "" for phase in ready.phases().values()))
    assert told == [9, 17, 25, 31, 31]
    assert ready.judged(9, "Valid") == "True Fits"
    assert ready.judged(10, "Valid") == "Unknown TooManyWait"
    # A decision brings it to the front.
    ready.decide(31, "Approved")
    await ready.work(3, seconds=5.0)
    assert ready.phases()[31] == "Active"


async def test_a_report_that_is_missed_changes_nothing_that_was_told(ready: Bench) -> None:
    write(ready, 2, 1)
    await ready.work()
    told_of_2 = ready.placement(2)["metadata"]["resourceVersion"]
    for answers in (False, True) * 5:
        ready.directory.answers = answers
        await ready.work()
    assert ready.placement(2)["metadata"]["resourceVersion"] == told_of_2
    assert ready.judged(2, "Valid") == "True Fits"
    ready.directory.answers = False
    write(ready, 3, 1)
    await ready.work()
    assert ready.judged(3, "Valid") == "Unknown NotJudged"


async def test_what_changes_at_every_look_is_not_written_at_every_look(ready: Bench) -> None:
    write(ready, 2, 1)
    versions = set()
    for number in range(60):
        ready.directory.facts = FACTS.model_copy(update={"digest": f"sha256:{number % 2}"})
        await ready.work(seconds=0.1)
        versions.add(ready.placement(2)["metadata"]["resourceVersion"])
    assert len(versions) <= 2 + 10 + 60 * 0.1 / 5


@pytest.mark.slow
async def test_a_long_migration_is_told_of_seldom(ready: Bench) -> None:
    """Each write stores the whole object."""
    ready.ray.report = SlowDirectory(looks=120)
    write(ready, 2, 1)
    ready.decide(2, "Approved")
    versions = set()
    for _ in range(240):
        await ready.work(seconds=0.5)
        versions.add(ready.placement(2)["metadata"]["resourceVersion"])
    assert ready.phases()[2] == "Active"
    # A minute on the way, another there.
    assert len(versions) <= 4 + 60 / 2 + 2
