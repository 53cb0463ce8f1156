"""How many pods stay when nodes are drained, whether or not the directory tells what is in them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from kube_ray_objects import kube_ray_deployment

from moe_operator.api import MoEDeployment
from moe_operator.runtimes.kube_ray.evictions import (
    UNTOLD_SECONDS,
    Pods,
    Told,
    Untold,
    noted,
    staying,
    told_last,
    told_of,
    told_until,
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
    ("copies", "whole", "there", "experts"),
    [
        # A spare turns ready with a shard that was in another pod, which is ready still: as where its process crashed.
        (1, True, 5, 5),
        (2, False, 5, 5),
        # Where one may go it does not count: it is not ready.
        (2, True, 5, 3),
        # Some are still to come.
        (1, True, 3, 4),
        (2, False, 3, 4),
    ],
)
def test_where_no_pod_of_a_shard_may_go_none_may_when_a_spare_turns_ready(
    copies: int, whole: bool, there: int, experts: int
) -> None:
    assert staying(deployment(4, copies, spares=1), 4, whole=whole, there=there).experts == experts


@pytest.mark.parametrize("last", [3, 4])
def test_nor_while_the_directory_is_away(last: int) -> None:
    away = untold(LONG, pods(2), pods(4, 1), stay=last)
    assert staying(deployment(4, 1), 4, untold=away).experts == 5


@pytest.mark.parametrize(
    ("replicas", "serving", "at_least"),
    [(3, 3, 2), (3, 2, 3), (3, 0, 3), (3, 4, 2), (3, None, 2), (1, 0, 0), (1, 1, 0)],
)
def test_while_an_attention_replica_is_loading_no_pod_of_another_may_go(
    replicas: int, serving: int | None, at_least: int
) -> None:
    assert staying(deployment(2, 1, attention=replicas), 2, serving=serving).attention == at_least


@pytest.mark.parametrize(
    ("replicas", "serving", "at_least"), [(2, 2, 2), (2, 3, 3), (2, 1, 2), (2, None, 2), (1, 2, 2), (1, None, 1)]
)
def test_while_all_apis_are_in_one_pod_of_attention_none_may_go_of_however_many(
    replicas: int, serving: int | None, at_least: int
) -> None:
    """Also where one replica is enough, and load has added another."""
    assert staying(deployment(2, 1, attention=replicas), 2, serving=serving, together=True).attention == at_least


def test_a_spare_pod_which_is_never_ready_keeps_no_shard_from_going() -> None:
    """On a node, two copies on two shards with a spare: no pod of a shard could be evicted."""
    assert staying(deployment(2, 2, spares=1), 2).experts == 1


def untold(
    seconds: float, attention: Pods, shards: Pods, is_away: bool = True, ran: int = 4, stay: int | None = 3
) -> Untold:
    return Untold(Told(NOW - timedelta(seconds=seconds), ran, stay), seconds, is_away, attention, shards)


def pods(before: int, later: int = 0, unready: int = 0) -> Pods:
    """``before``: that have run since before, of which ``unready`` are not ready now; ``later``: that came since."""
    return Pods(before, before - unready, before - unready + later, before + later)


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
    (2, 2, 0, LONG, replace(pods(0, 1), there=2, coming=1), pods(4), (1, 1), "EvictionsOpened"),
    (2, 2, 0, LONG, pods(0, 2), replace(pods(3), there=4, coming=1), (1, 1), "EvictionsOpened"),
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


LAST_TOLD = [
    # shards, copies.min, how many ran and had to stay when it was told last, pods for shards; how many stay now, and
    # what is told
    (4, 2, 4, 3, pods(4), 3, "EvictionsOpened"),
    # Copies were being made then: any may be the last.
    (4, 2, 4, 4, pods(4), 4, "LastCopiesKept"),
    (4, 2, 4, None, pods(4), 4, "LastCopiesKept"),
    # What never ran is not lost: the others answer everything.
    (5, 1, 4, 5, pods(4), 5, "LastCopiesKept"),
    (6, 2, 4, 6, pods(4), 6, "LastCopiesKept"),
    (5, 1, 4, 5, pods(3), 2, "EvictionsOpened"),
    (5, 1, 0, None, pods(4), 5, "LastCopiesKept"),
    # A spare is none either.
    (4, 1, 5, 4, pods(4), 4, "LastCopiesKept"),
]


@pytest.mark.parametrize(("shards", "copies", "ran", "stay", "there", "experts", "reason"), LAST_TOLD)
def test_what_was_known_when_it_was_told_last_counts(
    shards: int, copies: int, ran: int, stay: int | None, there: Pods, experts: int, reason: str
) -> None:
    moe, away = deployment(shards, copies, attention=2), untold(LONG, pods(2), there, ran=ran, stay=stay)
    told = told_of(moe, shards, away)
    assert (staying(moe, shards, untold=away).experts, told and told.reason) == (experts, reason)


@pytest.mark.parametrize("ready", [2, 3, 4])
def test_no_two_may_go_when_a_pod_turns_ready_before_the_budget_is_written_anew(ready: int) -> None:
    moe = deployment(4, 2, attention=3)
    begins, waits = Pods(2, 2, ready, ready + 1, coming=1), Pods(2, 2, ready, ready + 1)
    for of_shards in (Pods(4, 4, 4, 5, coming=1), Pods(3, 3, 3, 4, coming=1)):
        stay = staying(moe, 4, untold=untold(LONG, begins, of_shards, ran=3))
        assert (ready - stay.attention, ready + 1 - stay.attention) == (0, 1)
        assert of_shards.ready + 1 - stay.experts <= 1
    stay = staying(moe, 4, untold=untold(LONG, waits, pods(4)))
    assert ready - stay.attention == 1, "what has not turned ready in two minutes keeps no node from being drained"


def test_where_none_of_attention_may_go_none_may_when_a_further_pod_turns_ready() -> None:
    moe = deployment(4, 2, attention=3)
    for attention in (pods(2, unready=1), Pods(before=1, answering=1, ready=1, there=2)):
        assert staying(moe, 4, untold=untold(LONG, attention, pods(4))).attention == attention.there == 2


def test_a_first_start_that_takes_long_is_no_reason_to_say_anything() -> None:
    assert told_of(deployment(4, 2), 0, untold(2 * LONG, pods(0), pods(0), ran=0, stay=None)) is None


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


@pytest.mark.parametrize("last", [Told(NOW - timedelta(seconds=90), 5, 3), Told(NOW - timedelta(seconds=90), 5)])
def test_what_was_told_last_is_kept_on_the_budgets(last: Told) -> None:
    moe = deployment(4, 2)
    _, of_experts = build_budgets(moe, staying(moe, 4), "tiny-abcde", noted(last, "tiny-abcde"))
    assert told_last(of_experts, "tiny-abcde", NOW) == last
    assert told_last(of_experts, "tiny-other", NOW) is None, "of another cluster"
    earlier = last.since - timedelta(seconds=1)
    assert told_last(of_experts, "tiny-abcde", earlier) == Told(earlier, last.ran, last.stay)
    _, of_experts = build_budgets(moe, staying(moe, 4), "tiny-abcde")
    assert told_last(of_experts, "tiny-abcde", NOW) is None


def test_when_it_falls_silent_it_counts_how_many_ran_and_had_to_stay() -> None:
    moe = deployment(4, 2)
    _, of_experts = build_budgets(moe, staying(moe, 4), "tiny-abcde")
    assert told_until(of_experts, "tiny-abcde", NOW, 5) == Told(NOW, 5, 3)
    assert told_until(of_experts, "tiny-other", NOW, 5) == Told(NOW, 5), "of another cluster"
    assert told_until(None, "tiny-abcde", NOW, 0) == Told(NOW)


def annotated(text: object) -> dict[str, object]:
    return {"metadata": {"annotations": {"moe-operator.io/untold-since": text}}}


@pytest.mark.parametrize("text", ["", "tiny-abcde", "yesterday tiny-abcde", "2026-01-02T03:04:05 tiny-abcde", None, 7])
def test_what_somebody_else_wrote_there_counts_for_nothing(text: object) -> None:
    assert told_last(annotated(text), "tiny-abcde", NOW) is None
    assert told_last(None, "tiny-abcde", NOW) is None


@pytest.mark.parametrize("numbers", ["", " ", " x", " -4 -3", " 4444444", " ٤ ٣"])
def test_numbers_that_are_none_let_nothing_go(numbers: str) -> None:
    assert told_last(annotated(f"2026-01-02T03:04:05Z tiny-abcde{numbers}"), "tiny-abcde", NOW) == Told(NOW)


def test_budgets_say_how_many_pods_of_which_cluster_stay() -> None:
    moe = deployment(4, 2, attention=3)
    budgets = list(build_budgets(moe, staying(moe, 4), cluster="tiny-abcde"))
    assert [each["spec"]["minAvailable"] for each in budgets] == [2, 3]
    assert {each["spec"]["unhealthyPodEvictionPolicy"] for each in budgets} == {"AlwaysAllow"}
    assert {each["spec"]["selector"]["matchLabels"]["ray.io/cluster"] for each in budgets} == {"tiny-abcde"}
    assert [each["metadata"]["name"] for each in budgets] == ["tiny-moe-attention", "tiny-moe-experts"]
