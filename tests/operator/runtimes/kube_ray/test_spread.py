"""When one more api process is asked for, so that they are in more than one pod, and when evictions wait for it."""

import pytest
from kube_ray_objects import kube_ray_deployment, settled_config

from moe_contract.applications import API
from moe_operator.api import MoEDeployment
from moe_operator.runtimes.kube_ray.spread import (
    APART_SECONDS,
    Apis,
    Needed,
    Together,
    least_apis,
    least_told,
)
from moe_operator.runtimes.kube_ray.state import read_configs


def deployment(least: int = 2, most: int = 4) -> MoEDeployment:
    return kube_ray_deployment(spec={"api": {"minReplicas": least, "maxReplicas": most}})


PLACES = [
    # pods that have room, those of them that have an api, apis in the fullest; whether another pod is waited for, and
    # how many apis run at least, of 2 to 4
    (Apis(2, 2, 1), False, 2),
    (Apis(2, 1, 2), True, 3),
    (Apis(2, 1, 3), True, 4),
    # What is as many as may be cannot be waited for: Serve may stop one, and the next one comes elsewhere.
    (Apis(2, 1, 4), False, 2),
    # One more stays, or Serve would stop the one that came.
    (Apis(2, 2, 2), False, 3),
    # More than that are nobody's need, as after several drains, after a peak, or where fewer are asked for by now.
    (Apis(2, 2, 3), False, 2),
    (Apis(2, 2, 8), False, 2),
    (Apis(3, 3, 1), False, 2),
    # None answers in a pod that stays: the next one will.
    (Apis(2, 0, 0), True, 2),
    # There is no other pod.
    (Apis(1, 1, 2), False, 2),
    (Apis(0, 0, 0), False, 2),
]


@pytest.mark.parametrize(("apis", "is_waited_for", "least"), PLACES)
def test_one_more_is_asked_for_while_all_are_in_one_pod(apis: Apis, is_waited_for: bool, least: int) -> None:
    moe = deployment()
    assert (apis.come_apart(moe), least_apis(moe, apis, told=4)) == (is_waited_for, least)


def test_drain_after_drain_they_settle_at_one_more_than_the_least() -> None:
    """Each time all come to be in the pod that was left; idle, Serve stops at once what is beyond the least, and
    first what is in the emptier pod."""
    moe, fuller, emptier = deployment(), 1, 1
    for _ in range(4):
        fuller, emptier = fuller + emptier, 0  # a drain; then another pod comes
        for _ in range(8):
            least = least_apis(moe, Apis(2, 1 + (emptier > 0), fuller), told=None)
            assert fuller + emptier <= 4
            if fuller + emptier < least:
                emptier += 1
            else:
                fuller, emptier = min(fuller, least), max(least - fuller, 0) if emptier else 0
        assert (fuller, emptier, least) == (2, 1, 3)


def passes(moe: MoEDeployment, needed: Needed, apis: tuple[int, int], load: int, hours: range) -> tuple[int, int, int]:
    """Apis in the fuller and the emptier pod, and how many were started in that, when Serve has had ten minutes between
    two looks, and stops first what is in the emptier one."""
    (fuller, emptier), starts = apis, 0
    for now in range(hours.start * 3600, hours.stop * 3600, 600):
        there = Apis(2, 1 + (emptier > 0), fuller)
        beyond = fuller + emptier - max(least_apis(moe, there, None, needed.look(moe, there, now)), load)
        starts += max(-beyond, 0)
        stopped = min(max(beyond, 0), emptier)
        emptier += max(-beyond, 0) - stopped
        fuller -= max(beyond, 0) - stopped
    return fuller, emptier, starts


def test_what_load_needs_is_not_stopped_and_started_every_ten_minutes() -> None:
    moe, needed = deployment(), Needed()
    fuller, emptier, starts = passes(moe, needed, (3, 1), load=3, hours=range(6))
    assert fuller + emptier >= 3
    assert 1 <= starts <= 6, "it is tried again each hour"
    assert passes(moe, needed, (3, 1), load=4, hours=range(6, 9)) == (3, 1, 0)
    fuller, emptier, _ = passes(moe, needed, (3, 1), load=0, hours=range(9, 12))
    assert (fuller, emptier) == (2, 1), "what nobody needs any more is stopped"


def test_what_a_drain_put_together_is_not_taken_for_needed() -> None:
    moe, apart, together = deployment(), Apis(2, 2, 3), Apis(2, 1, 3)
    for seen, needed_now in (([apart, together], 3), ([apart, None, together], 3), ([together], 0)):
        needed = Needed()
        assert [needed.look(moe, apis, 0.0) for apis in seen][-1] == needed_now
    needed = Needed()
    for apis in (apart, Apis(1, 1, 3), together):
        assert needed.look(moe, apis, 0.0) == 0
    # Serve stopped more than the one in the emptier pod.
    for apis in (apart, Apis(2, 1, 2)):
        assert needed.look(moe, apis, 0.0) == 0


def test_what_was_being_stopped_is_not_taken_for_needed_any_longer_than_it_takes() -> None:
    """Serve stopped one in each pod, and the one in the fuller pod has requests: minutes, and not an hour."""
    moe, needed = deployment(), Needed()
    seen = [
        (Apis(2, 2, 3), 0),
        (Apis(2, 1, 3), 3),
        (Apis(2, 2, 3), 3),
        (None, 3),
        (Apis(2, 2, 2), 0),
        (Apis(2, 2, 3), 0),
    ]
    for now, (apis, needed_now) in enumerate(seen):
        assert needed.look(moe, apis, 10.0 * now) == needed_now
    assert least_apis(moe, Apis(2, 2, 2), None, needed.look(moe, Apis(2, 2, 2), 100.0)) == 3


@pytest.mark.parametrize(("told", "least"), [(None, 2), (1, 2), (3, 3), (9, 4)])
def test_where_they_are_not_known_as_many_run_as_were_told_last_within_the_bounds(told: int | None, least: int) -> None:
    assert least_apis(deployment(), None, told) == least


def test_the_bounds_of_the_spec_hold() -> None:
    two = deployment(least=2, most=2)
    assert not Apis(2, 1, 2).come_apart(two)
    assert least_apis(two, Apis(2, 1, 2), told=None) == 2


def test_what_was_told_last_is_read_from_what_serve_is_told() -> None:
    configs = read_configs(settled_config(deployment(least=3)))
    core = next(config for name, config in configs.items() if ".experts" not in name)
    assert least_told(core) == 3


@pytest.mark.parametrize(
    "core",
    [
        None,
        {},
        {"deployments": None},
        {"deployments": [{"name": API}]},
        {"deployments": [{"name": API, "autoscaling_config": {"min_replicas": "3"}}]},
        {"deployments": [{"name": API, "autoscaling_config": {"min_replicas": True}}]},
    ],
)
def test_what_somebody_else_wrote_says_nothing(core: object) -> None:
    assert least_told(core) is None  # type: ignore[arg-type]


def test_evictions_wait_for_a_while() -> None:
    together = Together()
    assert [together.lasts(True, now) for now in (10.0, 11.0, 9.0 + APART_SECONDS)] == [True] * 3
    assert not together.lasts(True, 10.0 + APART_SECONDS)
    assert not together.lasts(False, 11.0 + APART_SECONDS)
    assert together.lasts(True, 12.0 + APART_SECONDS), "the next time is another one"


def test_a_look_that_finds_nothing_out_prolongs_no_wait_and_ends_none() -> None:
    together = Together()
    assert not together.lasts(None, 9.0)
    assert together.lasts(True, 10.0)
    assert together.lasts(None, 11.0)
    assert together.lasts(True, 9.0 + APART_SECONDS)
    assert not together.lasts(True, 10.0 + APART_SECONDS)
