"""ExpertPlacements and the data plane, each as the truth of the other: written by hand, deleted, put back, outlived."""

import asyncio
import json
from typing import Any

import pytest
from bench import Bench, broken
from fake_kube import FakeKube
from fake_ray import FakeDirectory, JsonObject
from moe_facts import FACTS
from placement_objects import content, manifest, moved

from moe_contract.report import DirectoryReport, Progress
from moe_operator.kube.errors import ForbiddenError, KubeUnreachableError
from moe_operator.kube.resources import EVENTS, EXPERT_PLACEMENTS, MOE_DEPLOYMENTS, Resource
from moe_operator.placements import attempts
from moe_placement import Placement

OTHER = moved(FACTS.layers, FACTS.experts, 2, 4)


class SlowDirectory(FakeDirectory):
    """Gets a copy further at each look after revision 1, and is there after ``looks``."""

    def __init__(self, looks: int) -> None:
        super().__init__(FACTS)
        self.looks, self.looked = looks, 0

    def __call__(self, config: JsonObject) -> DirectoryReport | None:
        report = super().__call__(config)
        if report is None or report.revision < 2:
            return report
        self.looked += 1
        progress = Progress(copied=min(self.looked, 16), total=16, settled=self.looked > self.looks)
        return report.model_copy(update={"progress": progress})


def write(bench: Bench, revision: int, base: int, of: Placement = OTHER, **fields: Any) -> None:
    bench.write(manifest(content(of, revision, base, FACTS.digest) | fields))


async def migrate(bench: Bench, revision: int, base: int, of: Placement = OTHER) -> None:
    write(bench, revision, base, of)
    await bench.work()
    bench.decide(revision, "Approved")
    await bench.work(3, seconds=5.0)


@pytest.fixture
async def ready(bench: Bench) -> Bench:
    bench.apply()
    await bench.ready()
    await bench.work(2, seconds=5.0)
    return bench


async def test_the_first_placement_becomes_an_object(ready: Bench) -> None:
    first = ready.placement(1)
    revision, placement = ready.runs()
    assert revision == 1
    assert first["spec"] == {
        "deploymentRef": {"name": "tiny"},
        "decision": "Approved",
        "content": content(placement, 1, 0, FACTS.digest),
    }
    status = first["status"]
    assert (status["phase"], status["origin"], status["price"]["moves"]) == ("Active", "Operator", 16)
    assert [owner["uid"] for owner in first["metadata"]["ownerReferences"]] == ["u-1"]
    written = first["metadata"]["resourceVersion"]
    await ready.work(5, seconds=5.0)
    assert ready.placement(1)["metadata"]["resourceVersion"] == written


async def test_one_written_by_hand_is_migrated_to(ready: Bench) -> None:
    slow = SlowDirectory(looks=3)
    ready.ray.report = slow
    write(ready, 2, 1)
    await ready.work()
    assert ready.phases() == {1: "Active", 2: "Proposed"}
    assert ready.runs()[0] == 1
    ready.decide(2, "Approved")
    await ready.work(2, seconds=2.0)
    assert ready.phases() == {1: "Superseded", 2: "Migrating"}
    assert ready.runs() == (2, OTHER)
    status = ready.placement(2)["status"]
    assert status["progress"] == {"copied": 1, "total": 16, "epoch": 2}
    assert status["origin"] == "Person"
    assert status["price"] == {"moves": status["price"]["moves"], "bytes": status["price"]["moves"] * 100}
    await ready.work(4, seconds=2.0)
    assert ready.phases() == {1: "Superseded", 2: "Active"}
    assert ready.placement(2)["status"]["progress"]["copied"] == 4
    assert ready.kube.moe()["status"]["placement"]["revision"] == 2
    assert [owner["name"] for owner in ready.placement(2)["metadata"]["ownerReferences"]] == ["tiny"]
    assert [reason for reason in ready.kube.reasons() if reason in ("Migrating", "InForce")] == ["Migrating", "InForce"]
    # It stays, whatever is computed for this shape.
    await ready.work(5, seconds=5.0)
    assert ready.runs() == (2, OTHER)


async def test_one_that_does_not_fit_is_refused_and_moves_nothing(ready: Bench) -> None:
    before = ready.runs()
    missing = ["0 1 2 3 4 5 6 6"] * 2
    write(ready, 2, 1, layers=missing)
    write(ready, 3, 0)
    write(ready, 4, 1, modelDigest="sha256:2")
    await ready.work()
    assert ready.phases() == {1: "Active", 2: "Failed", 3: "Failed", 4: "Proposed"}
    assert ready.judged(2, "Valid") == "False ExpertMissing"
    assert ready.judged(3, "Valid") == "False StaleBase"
    assert ready.judged(4, "Valid") == "False OtherModel"
    ready.decide(4, "Approved")
    ready.decide(3, "Approved")
    await ready.work(3, seconds=5.0)
    assert ready.phases() == {1: "Active", 2: "Failed", 3: "Failed", 4: "Failed"}
    assert ready.judged(3, "Approved") == "False Failed"
    assert ready.runs() == before
    warned = [e for (plural, *_), e in ready.kube.objects.items() if plural == EVENTS.plural and e["type"] == "Warning"]
    about = sorted((e["regarding"]["name"], e["reason"]) for e in warned if e["regarding"]["kind"] == "ExpertPlacement")
    assert about == [("tiny-r2", "ExpertMissing"), ("tiny-r3", "StaleBase"), ("tiny-r4", "OtherModel")]


async def test_two_at_once(ready: Bench) -> None:
    write(ready, 2, 1)
    write(ready, 3, 1, of=ready.runs()[1])
    ready.decide(2, "Approved")
    ready.decide(3, "Approved")
    await ready.work(4, seconds=5.0)
    assert ready.phases() == {1: "Superseded", 2: "Active", 3: "Failed"}
    assert ready.judged(3, "Valid") == "False StaleBase"
    assert ready.runs() == (2, OTHER)


async def test_what_runs_gets_its_object_back(ready: Bench) -> None:
    await migrate(ready, 2, 1)
    there = ready.placement(2)["spec"]
    ready.kube.drop(EXPERT_PLACEMENTS, "tiny-r2")
    await ready.work(3, seconds=5.0)
    assert ready.phases() == {1: "Superseded", 2: "Active"}
    assert ready.placement(2)["spec"] == there
    assert ready.placement(2)["status"]["origin"] == "Operator"


async def test_an_object_that_says_something_else_moves_nothing(ready: Bench) -> None:
    """As a backup of etcd from another history does: what runs goes on under a revision of its own."""
    await migrate(ready, 2, 1)
    ready.kube.drop(EXPERT_PLACEMENTS, "tiny-r2")
    first = ready.placement(1)["spec"]["content"]
    write(ready, 2, 1, layers=first["layers"])
    await ready.work(4, seconds=5.0)
    assert ready.runs() == (3, OTHER)
    assert ready.phases() == {1: "Superseded", 2: "Failed", 3: "Active"}
    assert ready.judged(2, "Valid") == "False RevisionTaken"
    assert "price" not in ready.placement(3)["status"], "of what is over nobody knows any more what it said"


async def test_a_backup_of_etcd_that_is_put_back(ready: Bench) -> None:
    backup = {key: body for key, body in ready.kube.objects.items() if key[0] != MOE_DEPLOYMENTS.plural}
    await migrate(ready, 2, 1)
    for key in [key for key in ready.kube.objects if key[0] == EXPERT_PLACEMENTS.plural]:
        del ready.kube.objects[key]
    ready.kube.objects |= backup
    assert ready.phases() == {1: "Active"}
    ready.restart()
    await ready.work(4, seconds=5.0)
    assert ready.runs() == (2, OTHER)
    assert ready.phases() == {1: "Superseded", 2: "Active"}


async def test_a_sleep_does_not_lose_a_placement(ready: Bench) -> None:
    await migrate(ready, 2, 1)
    spec = ready.kube.moe()["spec"]["experts"]
    ready.change(experts={**spec, "shards": 0})
    await ready.work(5, seconds=5.0)
    assert not [name for name in ready.ray.configs if name.startswith("moe.")]
    assert (ready.phases()[2], ready.judged(2, "Active")) == ("Active", "False NothingRuns")
    ready.change(experts={**spec, "shards": 2})
    await ready.work(6, seconds=5.0)
    assert ready.runs() == (2, OTHER)
    assert ready.judged(2, "Active") == "True InForce"


async def test_nor_does_the_loss_of_ray_and_operator_at_once(ready: Bench) -> None:
    await migrate(ready, 2, 1)
    ready.ray.configs.clear()
    ready.restart()
    await ready.work(8, seconds=5.0)
    assert ready.runs() == (2, OTHER)
    assert ready.phases() == {1: "Superseded", 2: "Active"}


async def test_scaling_makes_a_placement_of_its_own(ready: Bench) -> None:
    await migrate(ready, 2, 1)
    write(ready, 9, 2)
    spec = ready.kube.moe()["spec"]["experts"]
    ready.change(experts={**spec, "shards": 3})
    await ready.work(4, seconds=5.0)
    ready.decide(9, "Approved")
    await ready.work(3, seconds=5.0)
    revision, placement = ready.runs()
    assert (revision, placement.shards) == (3, 3)
    assert ready.phases() == {1: "Superseded", 2: "Superseded", 3: "Active", 9: "Failed"}
    # From what runs to 3 shards as few copies move as can: the third has four new ones a layer at most.
    assert ready.placement(3)["status"]["price"]["moves"] <= 4 * FACTS.layers
    assert ready.placement(3)["spec"]["content"]["baseRevision"] == 2


async def test_shards_that_leave_are_no_part_of_a_content(ready: Bench) -> None:
    spec = ready.kube.moe()["spec"]["experts"]
    ready.change(experts={**spec, "shards": 2, "slotsPerShard": 8})
    await ready.work(4, seconds=5.0)
    ready.change(experts={**spec, "shards": 1, "slotsPerShard": 8})
    await ready.work(6, seconds=5.0)
    revision, placement = ready.runs()
    assert placement.shard_slots == (8,)
    assert ready.placement(revision)["spec"]["content"]["shards"] == 1
    assert ready.phases()[revision] == "Active"
    assert [phase for each, phase in ready.phases().items() if each < revision] == ["Superseded"] * (revision - 1)


async def test_history(ready: Bench) -> None:
    ready.change(rebalance={"historyLimit": 1})
    spec = ready.kube.moe()["spec"]["experts"]
    await migrate(ready, 2, 1)
    for shards in (3, 4, 3, 4):
        ready.change(experts={**spec, "shards": shards})
        await ready.work(6, seconds=5.0)
    revision, _ = ready.runs()
    kept = ready.phases()
    assert kept[revision] == "Active"
    assert kept[2] == "Superseded", "what a person wrote stays"
    operators = [each for each in kept if ready.placement(each)["status"]["origin"] == "Operator"]
    # What runs, what to go back to, and one more.
    assert len(operators) == 3
    assert operators[-1] == revision


async def test_an_operator_that_dies_on_the_way(ready: Bench) -> None:
    slow = SlowDirectory(looks=8)
    ready.ray.report = slow
    write(ready, 2, 1)
    ready.decide(2, "Approved")
    await ready.work(2)
    ready.restart()
    await ready.work()
    assert ready.phases() == {1: "Superseded", 2: "Migrating"}
    puts = len(ready.ray.puts)
    ready.restart()
    await ready.work(8, seconds=5.0)
    assert ready.phases() == {1: "Superseded", 2: "Active"}
    assert ready.runs()[0] == 2
    assert len(ready.ray.puts) - puts <= 1, "more than its term was written anew"


async def test_while_suspended_nothing_is_written_or_begun(ready: Bench) -> None:
    ready.change(suspend=True)
    write(ready, 2, 1)
    ready.decide(2, "Approved")
    await ready.work(3, seconds=5.0)
    assert ready.phases() == {1: "Active", 2: "Approved"}
    assert ready.judged(2, "Valid") == "Unknown NotJudged"
    assert [owner["name"] for owner in ready.placement(2)["metadata"]["ownerReferences"]] == ["tiny"]
    before = ready.placement(2)["metadata"]["resourceVersion"]
    await ready.work(3, seconds=5.0)
    assert ready.placement(2)["metadata"]["resourceVersion"] == before
    assert ready.runs()[0] == 1
    ready.change(suspend=False)
    await ready.work(3, seconds=5.0)
    assert ready.runs() == (2, OTHER)


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


async def test_one_that_nobody_can_read_is_left_alone(ready: Bench) -> None:
    before = ready.runs()[1]
    ready.write({**ready.placement(1), "spec": {**ready.placement(1)["spec"], "ofALaterRelease": 1}})
    await ready.work(4, seconds=5.0)
    assert ready.runs() == (2, before)
    assert ready.phases()[2] == "Active"


async def test_one_that_is_gone_without_a_word_is_forgotten(ready: Bench) -> None:
    write(ready, 2, 1)
    ready.placements.replace_all(ready.kube.listing(EXPERT_PLACEMENTS))
    ready.kube.drop(EXPERT_PLACEMENTS, "tiny-r2")
    await ready.reconciler.reconcile("team/tiny")
    assert ready.placements.objects.get("team/tiny-r2") is None


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


async def test_one_without_a_deployment_is_told_so(bench: Bench) -> None:
    write(bench, 2, 1)
    await bench.work()
    assert bench.judged(2, "Valid") == "Unknown DeploymentMissing"
    bench.apply()
    await bench.ready()
    assert bench.judged(2, "Valid") == "True Fits"
    assert [owner["name"] for owner in bench.placement(2)["metadata"]["ownerReferences"]] == ["tiny"]


async def test_while_ray_does_not_answer_one_is_told_so_and_the_others_stay(ready: Bench) -> None:
    write(ready, 2, 1)
    await ready.work()
    told_of_2 = ready.placement(2)["metadata"]["resourceVersion"]
    ready.ray.override = broken
    write(ready, 3, 1)
    await ready.work(2, seconds=5.0)
    assert ready.judged(3, "Valid") == "Unknown NotJudged"
    assert ready.placement(2)["metadata"]["resourceVersion"] == told_of_2


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


async def test_the_one_that_is_restored_is_not_taken_from_a_former_deployment_of_another_model(ready: Bench) -> None:
    await migrate(ready, 2, 1)
    other = FACTS.model_copy(update={"digest": "sha256:2"})
    ready.directory.facts = other
    ready.ray.configs.clear()
    ready.restart()
    await ready.work(8, seconds=5.0)
    revision, placement = ready.runs()
    assert revision == 3
    assert placement != OTHER
    assert ready.placement(3)["spec"]["content"]["modelDigest"] == "sha256:2"
    assert ready.phases() == {1: "Superseded", 2: "Superseded", 3: "Active"}


def test_the_objects_of_the_bench_are_what_the_api_server_takes(ready: Bench) -> None:
    assert json.loads(json.dumps(ready.placement(1))) == ready.placement(1)
