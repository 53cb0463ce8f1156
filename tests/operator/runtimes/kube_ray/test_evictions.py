"""How many pods stay when nodes are drained, whether or not the directory tells what is in them."""

from datetime import UTC, datetime, timedelta

import pytest
from kube_ray_objects import kube_ray_deployment

from moe_operator.api import MoEDeployment
from moe_operator.runtimes.kube_ray.evictions import (
    UNTOLD_SECONDS,
    Pods,
    Untold,
    noted,
    staying,
    told_of,
    untold_since,
)
from moe_operator.runtimes.kube_ray.manifests.budgets import build_budgets

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def deployment(shards: int, copies: int, attention: int = 1, spares: int = 0) -> MoEDeployment:
    replicas = {"attention": {"minReplicas": attention, "maxReplicas": attention}}
    workers = {"expertWorkers": {"spares": spares}}
    return kube_ray_deployment(workers, shards=shards, copies={"min": copies}, spec=replicas)


@pytest.mark.parametrize(
    ("shards", "copies", "drained", "experts"), [(4, 1, 0, 4), (4, 2, 0, 3), (4, 1, 1, 3), (4, 2, 1, 3), (2, 3, 0, 0)]
)
def test_how_many_shards_stay_when_nodes_are_drained(shards: int, copies: int, drained: int, experts: int) -> None:
    stay = staying(deployment(shards, copies, attention=3), shards, drained)
    assert (stay.attention, stay.experts) == (2, experts)


def test_while_copies_are_loaded_no_pod_of_a_shard_may_go() -> None:
    assert staying(deployment(4, 2), 4, drained=1, whole=False).experts == 4


@pytest.mark.parametrize(
    ("replicas", "serving", "at_least"),
    [(3, 3, 2), (3, 2, 3), (3, 0, 3), (3, 4, 2), (3, None, 2), (1, 0, 0), (1, 1, 0)],
)
def test_while_an_attention_replica_is_loading_no_pod_of_another_may_go(
    replicas: int, serving: int | None, at_least: int
) -> None:
    assert staying(deployment(2, 1, attention=replicas), 2, serving=serving).attention == at_least


def test_a_spare_pod_which_is_never_ready_keeps_no_shard_from_going() -> None:
    """On a node, two copies on two shards with a spare: no pod of a shard could be evicted."""
    assert staying(deployment(2, 2, spares=1), 2).experts == 1


def untold(seconds: float, attention: Pods, shards: Pods, is_away: bool = True) -> Untold:
    return Untold(NOW - timedelta(seconds=seconds), seconds, is_away, attention, shards)


def pods(before: int, later: int = 0, unready: int = 0) -> Pods:
    """``before``: that have run since before, of which ``unready`` are not ready now; ``later``: that came since."""
    return Pods(before, before - unready, before - unready + later)


LONG = UNTOLD_SECONDS
UNHEARD = [
    # copies.min, attention.minReplicas, spares, seconds, pods of attention and for four shards; how many of each may go
    # of those that are ready, and what is told
    (2, 2, 0, LONG - 1, pods(2), pods(4), (0, 0), None),
    (2, 2, 0, LONG, pods(2), pods(4), (1, 1), "EvictionsOpened"),
    # One is gone: its successor is ready and answers nobody, or is still to come.
    (2, 2, 0, LONG, pods(1, 1), pods(4), (0, 1), "EvictionsOpened"),
    (2, 2, 0, LONG, pods(1), pods(4), (0, 1), "EvictionsOpened"),
    (2, 2, 0, LONG, pods(2), pods(3, 1), (1, 0), "LastCopiesKept"),
    (2, 2, 0, LONG, pods(2), pods(3), (1, 0), "LastCopiesKept"),
    (3, 3, 0, LONG, pods(2, 1), pods(3, 1), (1, 1), "EvictionsOpened"),
    (3, 3, 0, LONG, pods(2), pods(3), (1, 1), "EvictionsOpened"),
    (3, 3, 0, LONG, pods(1, 2), pods(2, 2), (0, 0), "LastCopiesKept"),
    # What is not ready may go at any time, and answers nobody.
    (2, 2, 0, LONG, pods(2, unready=1), pods(4, unready=1), (0, 1), "EvictionsOpened"),
    # A spare is never ready; where a pod was lost, a shard may be on it that was told nothing there.
    (2, 2, 1, LONG, pods(2), pods(5, unready=1), (1, 1), "EvictionsOpened"),
    (2, 2, 1, LONG, pods(2), pods(4), (1, 0), "LastCopiesKept"),
    (1, 2, 1, LONG, pods(2), pods(4), (1, 0), "LastCopiesKept"),
    # With one copy every pod of a shard is the last; of one attention replica there never was another.
    (1, 2, 0, LONG, pods(2), pods(4), (1, 0), "LastCopiesKept"),
    (2, 1, 0, LONG, pods(1), pods(4), (1, 1), "EvictionsOpened"),
    # Nobody is answered any more: a node need not wait for that.
    (1, 2, 0, LONG, pods(2), pods(3, 1), (1, 1), "EvictionsOpened"),
    (2, 2, 0, LONG, pods(2), pods(2), (1, 1), "EvictionsOpened"),
    (2, 2, 0, LONG, pods(0, 2), pods(4), (1, 1), "EvictionsOpened"),
    (2, 2, 0, LONG, pods(0), pods(0), (0, 0), "EvictionsOpened"),
]


@pytest.mark.parametrize(
    ("copies", "replicas", "spares", "seconds", "attention", "shards", "may_go", "reason"), UNHEARD
)
def test_a_drain_does_not_wait_for_ever_for_a_directory_that_is_away(
    copies: int,
    replicas: int,
    spares: int,
    seconds: float,
    attention: Pods,
    shards: Pods,
    may_go: tuple[int, int],
    reason: str | None,
) -> None:
    moe, away = deployment(4, copies, replicas, spares), untold(seconds, attention, shards)
    stay = staying(moe, 4, whole=False, serving=0, untold=away)
    assert (max(attention.ready - stay.attention, 0), max(shards.ready - stay.experts, 0)) == may_go
    told = told_of(moe, 4, away)
    assert (told and told.reason) == reason


@pytest.mark.parametrize(
    ("shards", "experts", "reason"),
    [(pods(4), 3, "EvictionsOpened"), (pods(3, 1), 4, "LastCopiesKept"), (pods(0, 4), 4, "LastCopiesKept")],
)
def test_of_one_that_is_there_and_does_not_report_none_is_taken_for_lost(
    shards: Pods, experts: int, reason: str
) -> None:
    """As when it takes another key: it goes on telling shards what to hold, and attention where they are."""
    moe, silent = deployment(4, 2, attention=2), untold(LONG, pods(0, 2), shards, is_away=False)
    stay = staying(moe, 4, whole=False, serving=None, untold=silent)
    told = told_of(moe, 4, silent)
    assert (stay.attention, stay.experts, told and told.reason) == (1, experts, reason)


def test_since_when_is_kept_on_the_budgets() -> None:
    moe, since = deployment(4, 2), NOW - timedelta(seconds=90)
    _, of_experts = build_budgets(moe, staying(moe, 4), "tiny-abcde", noted(since, "tiny-abcde"))
    assert untold_since(of_experts, "tiny-abcde", NOW) == since
    assert untold_since(of_experts, "tiny-other", NOW) == NOW, "of another cluster"
    assert untold_since(of_experts, "tiny-abcde", since - timedelta(seconds=1)) == since - timedelta(seconds=1)
    _, of_experts = build_budgets(moe, staying(moe, 4), "tiny-abcde")
    assert untold_since(of_experts, "tiny-abcde", NOW) == NOW


@pytest.mark.parametrize("text", ["", "tiny-abcde", "yesterday tiny-abcde", "2026-01-02T03:04:05 tiny-abcde", None, 7])
def test_what_somebody_else_wrote_there_counts_for_nothing(text: object) -> None:
    budget = {"metadata": {"annotations": {"moe-operator.io/untold-since": text}}}
    assert untold_since(budget, "tiny-abcde", NOW) == NOW
    assert untold_since(None, "tiny-abcde", NOW) == NOW


def test_budgets_say_how_many_pods_of_which_cluster_stay() -> None:
    moe = deployment(4, 2, attention=3)
    budgets = list(build_budgets(moe, staying(moe, 4), cluster="tiny-abcde"))
    assert [each["spec"]["minAvailable"] for each in budgets] == [2, 3]
    assert {each["spec"]["unhealthyPodEvictionPolicy"] for each in budgets} == {"AlwaysAllow"}
    assert {each["spec"]["selector"]["matchLabels"]["ray.io/cluster"] for each in budgets} == {"tiny-abcde"}
    assert [each["metadata"]["name"] for each in budgets] == ["tiny-moe-attention", "tiny-moe-experts"]
