"""ExpertPlacements and the data plane, each as the truth of the other: written by hand, deleted, put back, outlived."""

import json
from typing import Any

import pytest
from bench import Bench
from fake_kube import FakeKube
from fake_ray import FakeDirectory, JsonObject
from moe_facts import FACTS
from placement_objects import content, manifest, moved

from moe_contract.applications import DirectoryConfig
from moe_contract.report import DirectoryReport, Progress
from moe_operator.kube.errors import ForbiddenError
from moe_operator.kube.resources import EVENTS, EXPERT_PLACEMENTS, MOE_DEPLOYMENTS, Resource
from moe_placement import Placement
from moe_placement.encoding import decode_placement

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


def told(bench: Bench) -> DirectoryConfig:
    """What the directory was told last."""
    deployments = bench.ray.configs[bench.core]["deployments"]
    return DirectoryConfig.model_validate(next(d["user_config"] for d in deployments if d["name"] == "directory"))


def runs(bench: Bench) -> tuple[int, Placement]:
    config = told(bench)
    assert config.placement is not None
    return config.revision, decode_placement(config.placement)


def write(bench: Bench, revision: int, base: int, of: Placement = OTHER, **fields: Any) -> None:
    bench.write(manifest(content(of, revision, base, FACTS.digest) | fields))


async def migrate(bench: Bench, revision: int, base: int, of: Placement = OTHER) -> None:
    write(bench, revision, base, of)
    await bench.work()
    bench.decide(revision, "Approved")
    await bench.work(3, seconds=5.0)


def condition(bench: Bench, revision: int, kind: str) -> str:
    found = next(c for c in bench.placement(revision)["status"]["conditions"] if c["type"] == kind)
    return f"{found['status']} {found['reason']}"


@pytest.fixture
async def ready(bench: Bench) -> Bench:
    bench.apply()
    await bench.ready()
    await bench.work(2, seconds=5.0)
    return bench


async def test_the_first_placement_becomes_an_object(ready: Bench) -> None:
    first = ready.placement(1)
    revision, placement = runs(ready)
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
    assert runs(ready)[0] == 1
    ready.decide(2, "Approved")
    await ready.work(2, seconds=2.0)
    assert ready.phases() == {1: "Superseded", 2: "Migrating"}
    assert runs(ready) == (2, OTHER)
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
    assert runs(ready) == (2, OTHER)


async def test_one_that_does_not_fit_is_refused_and_moves_nothing(ready: Bench) -> None:
    before = runs(ready)
    missing = ["0 1 2 3 4 5 6 6"] * 2
    write(ready, 2, 1, layers=missing)
    write(ready, 3, 0)
    write(ready, 4, 1, modelDigest="sha256:2")
    await ready.work()
    assert ready.phases() == {1: "Active", 2: "Failed", 3: "Failed", 4: "Proposed"}
    assert condition(ready, 2, "Valid") == "False ExpertMissing"
    assert condition(ready, 3, "Valid") == "False StaleBase"
    assert condition(ready, 4, "Valid") == "False OtherModel"
    ready.decide(4, "Approved")
    ready.decide(3, "Approved")
    await ready.work(3, seconds=5.0)
    assert ready.phases() == {1: "Active", 2: "Failed", 3: "Failed", 4: "Failed"}
    assert condition(ready, 3, "Approved") == "False Failed"
    assert runs(ready) == before
    warned = [e for (plural, *_), e in ready.kube.objects.items() if plural == EVENTS.plural and e["type"] == "Warning"]
    about = sorted((e["regarding"]["name"], e["reason"]) for e in warned if e["regarding"]["kind"] == "ExpertPlacement")
    assert about == [("tiny-r2", "ExpertMissing"), ("tiny-r3", "StaleBase"), ("tiny-r4", "OtherModel")]


async def test_two_at_once(ready: Bench) -> None:
    write(ready, 2, 1)
    write(ready, 3, 1, of=runs(ready)[1])
    ready.decide(2, "Approved")
    ready.decide(3, "Approved")
    await ready.work(4, seconds=5.0)
    assert ready.phases() == {1: "Superseded", 2: "Active", 3: "Failed"}
    assert condition(ready, 3, "Valid") == "False StaleBase"
    assert runs(ready) == (2, OTHER)


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
    assert runs(ready) == (3, OTHER)
    assert ready.phases() == {1: "Superseded", 2: "Failed", 3: "Active"}
    assert condition(ready, 2, "Valid") == "False RevisionTaken"
    assert ready.placement(3)["status"]["price"] == {"moves": 16, "bytes": 1600}


async def test_a_backup_of_etcd_that_is_put_back(ready: Bench) -> None:
    backup = {key: body for key, body in ready.kube.objects.items() if key[0] != MOE_DEPLOYMENTS.plural}
    await migrate(ready, 2, 1)
    for key in [key for key in ready.kube.objects if key[0] == EXPERT_PLACEMENTS.plural]:
        del ready.kube.objects[key]
    ready.kube.objects |= backup
    assert ready.phases() == {1: "Active"}
    ready.restart()
    await ready.work(4, seconds=5.0)
    assert runs(ready) == (2, OTHER)
    assert ready.phases() == {1: "Superseded", 2: "Active"}


async def test_a_sleep_does_not_lose_a_placement(ready: Bench) -> None:
    await migrate(ready, 2, 1)
    spec = ready.kube.moe()["spec"]["experts"]
    ready.change(experts={**spec, "shards": 0})
    await ready.work(5, seconds=5.0)
    assert not [name for name in ready.ray.configs if name.startswith("moe.")]
    assert (ready.phases()[2], condition(ready, 2, "Active")) == ("Active", "False NothingRuns")
    ready.change(experts={**spec, "shards": 2})
    await ready.work(6, seconds=5.0)
    assert runs(ready) == (2, OTHER)
    assert condition(ready, 2, "Active") == "True InForce"


async def test_nor_does_the_loss_of_ray_and_operator_at_once(ready: Bench) -> None:
    await migrate(ready, 2, 1)
    ready.ray.configs.clear()
    ready.restart()
    await ready.work(8, seconds=5.0)
    assert runs(ready) == (2, OTHER)
    assert ready.phases() == {1: "Superseded", 2: "Active"}


async def test_scaling_makes_a_placement_of_its_own(ready: Bench) -> None:
    await migrate(ready, 2, 1)
    write(ready, 9, 2)
    spec = ready.kube.moe()["spec"]["experts"]
    ready.change(experts={**spec, "shards": 3})
    await ready.work(4, seconds=5.0)
    ready.decide(9, "Approved")
    await ready.work(3, seconds=5.0)
    revision, placement = runs(ready)
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
    revision, placement = runs(ready)
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
    revision, _ = runs(ready)
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
    assert told(ready).revision == 2
    assert len(ready.ray.puts) - puts <= 1, "more than its term was written anew"


async def test_while_suspended_nothing_is_written_or_begun(ready: Bench) -> None:
    ready.change(suspend=True)
    write(ready, 2, 1)
    ready.decide(2, "Approved")
    before = ready.placement(2)["metadata"]["resourceVersion"]
    await ready.work(3, seconds=5.0)
    assert ready.placement(2)["metadata"]["resourceVersion"] == before
    assert runs(ready)[0] == 1
    ready.change(suspend=False)
    await ready.work(3, seconds=5.0)
    assert runs(ready) == (2, OTHER)


async def test_without_the_right_to_write_them_serving_goes_on(bench: Bench, caplog: Any) -> None:
    class Forbidding(FakeKube):
        async def create(self, resource: Resource, body: Any) -> Any:
            if resource == EXPERT_PLACEMENTS:
                raise ForbiddenError("cannot create resource expertplacements", 403)
            return await super().create(resource, body)

    bench.kube = Forbidding()
    bench.restart()
    bench.apply()
    await bench.ready()
    assert bench.phases() == {}
    assert "cannot create resource expertplacements" in caplog.text


async def test_one_without_a_deployment_is_told_so(bench: Bench) -> None:
    write(bench, 2, 1)
    await bench.work()
    assert condition(bench, 2, "Valid") == "Unknown DeploymentMissing"
    bench.apply()
    await bench.ready()
    assert condition(bench, 2, "Valid") == "True Fits"


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
    revision, placement = runs(ready)
    assert revision == 3
    assert placement != OTHER
    assert ready.placement(3)["spec"]["content"]["modelDigest"] == "sha256:2"
    assert ready.phases() == {1: "Superseded", 2: "Superseded", 3: "Active"}


def test_the_objects_of_the_bench_are_what_the_api_server_takes(ready: Bench) -> None:
    assert json.loads(json.dumps(ready.placement(1))) == ready.placement(1)
