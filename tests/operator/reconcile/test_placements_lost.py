"""ExpertPlacements and the data plane, each as the truth of the other: deleted, put back, outlived."""

from bench import Bench
from moe_facts import FACTS
from written_placements import OTHER, SlowDirectory, migrate, write

from moe_operator.kube.resources import EXPERT_PLACEMENTS, MOE_DEPLOYMENTS


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


async def test_another_model_of_the_same_shape_under_the_same_path_gets_an_object_of_its_own(ready: Bench) -> None:
    """Somebody put another checkpoint there, and Ray was started anew: what runs goes on, as that of the new model."""
    await migrate(ready, 2, 1)
    ready.directory.facts = FACTS.model_copy(update={"digest": "sha256:2"})
    await ready.work(4, seconds=5.0)
    assert ready.runs() == (3, OTHER)
    assert ready.placement(3)["spec"]["content"]["modelDigest"] == "sha256:2"
    assert ready.phases() == {1: "Superseded", 2: "Superseded", 3: "Active"}


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


async def test_one_that_is_gone_without_a_word_is_forgotten(ready: Bench) -> None:
    write(ready, 2, 1)
    ready.placements.replace_all(ready.kube.listing(EXPERT_PLACEMENTS))
    ready.kube.drop(EXPERT_PLACEMENTS, "tiny-r2")
    await ready.reconciler.reconcile("team/tiny")
    assert ready.placements.objects.get("team/tiny-r2") is None
