"""Our applications into what a Ray cluster runs: what is kept, replaced, removed and refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_contract.applications import CORE_IMPORT_PATH, SHARD_IMPORT_PATH
from moe_contract.serve.config import as_json
from moe_contract.serve.merge import MAX_PATH, Change, Conflict, body, difference, merge, owned
from moe_contract.serve.state import ServeState, parse_state

Config = dict[str, Any]


def core(name: str, route: str | None = None, **more: Any) -> Config:
    return {"name": name, "route_prefix": route or f"/{name}", "import_path": CORE_IMPORT_PATH, **more}


def shard(name: str, **more: Any) -> Config:
    return {"name": name, "route_prefix": None, "import_path": SHARD_IMPORT_PATH, **more}


def foreign(name: str, **more: Any) -> Config:
    return {"name": name, "import_path": "shop.app:app", **more}


def state(*configs: Config, **fields: Any) -> ServeState:
    details = {
        config["name"]: {
            "status": "RUNNING",
            "route_prefix": config.get("route_prefix"),
            "deployed_app_config": json.loads(as_json(config)),
            "source": "declarative",
        }
        for config in configs
    }
    return parse_state({"controller_info": {"actor_id": "c"}, "applications": details, **fields})


def names(configs: Any) -> list[str]:
    return [config["name"] for config in configs]


A, A0, A1 = core("a"), shard("a.experts-0"), shard("a.experts-1")
B, B0 = core("b"), shard("b.experts-0")
SHOP = foreign("shop", route_prefix="/shop")
# "ab" begins like "a", and is another deployment.
AB = core("ab")


@pytest.mark.parametrize(
    ("there", "changes", "expected"),
    [
        ([], [Change("a", (A,))], ["a"]),
        ([SHOP], [Change("a", (A, A0))], ["shop", "a", "a.experts-0"]),
        ([A, A0, A1], [Change("a", (A, A0))], ["a", "a.experts-0"]),
        ([SHOP, A, A0], [Change("a", ())], ["shop"]),
        ([AB, A], [Change("a", ())], ["ab"]),
        ([SHOP, A], [Change("a", (A, A0)), Change("b", (B, B0))], ["shop", "a", "a.experts-0", "b", "b.experts-0"]),
        ([A, B], [Change("a", ())], ["b"]),
    ],
)
def test_what_runs_afterwards(there: list[Config], changes: list[Change], expected: list[str]) -> None:
    merged = merge(state(*there), changes)
    assert names(merged.applications) == expected
    assert not merged.conflicts


@pytest.mark.parametrize(
    ("there", "wanted", "changed"),
    [
        ([A, SHOP], (A,), False),
        ([A, A0], (A0, A), False),
        ([], (), False),
        ([A], (core("a", args={"x": 1}),), True),
        ([A], (A, A0), True),
        ([A, A0], (A,), True),
        # Serve echoes numbers as the schema's type has them.
        ([core("a", n=8.0)], (core("a", n=8),), False),
    ],
)
def test_only_a_difference_is_written(there: list[Config], wanted: tuple[Config, ...], changed: bool) -> None:
    assert merge(state(*there), [Change("a", wanted)]).changed == changed


@pytest.mark.parametrize(
    ("there", "wanted", "conflict"),
    [
        ([SHOP], core("a", "/shop"), Conflict("/shop", "shop")),
        ([foreign("root")], core("a", "/"), Conflict("/", "root")),
        ([B], core("a", "/b"), Conflict("/b", "b")),
        ([foreign("a")], A, Conflict(None, "a")),
        ([A], core("a", "/other"), None),
        ([foreign("silent", route_prefix=None)], core("a", "/silent"), None),
    ],
)
def test_a_route_or_name_of_somebody_else_is_left_alone(there: list[Config], wanted: Config, conflict: Any) -> None:
    merged = merge(state(*there), [Change("a", (wanted,))])
    assert merged.conflicts == ({"a": conflict} if conflict else {})
    assert merged.changed == (conflict is None)


@pytest.mark.parametrize(
    ("there", "wanted", "path"),
    [
        # Below what the api of another deployment answers, or the reverse.
        (core("b", "/x"), "/x/v1", "/x/v1"),
        (core("b", "/x"), "/x/v1/chat/completions", "/x/v1"),
        (core("b", "/x"), "/x/internal/report", "/x/internal"),
        (core("b", "/x"), "/x/healthz", "/x/healthz"),
        (core("b", "/x"), "/x/metrics", "/x/metrics"),
        (core("b", "/"), "/v1/tiny", "/v1"),
        (core("b", "/x/v1/y"), "/x", "/x/v1/y"),
        (core("b", "/v1"), "/", "/v1"),
        (foreign("b", route_prefix="/x/v1"), "/x", "/x/v1"),
        # What a foreign application answers below its prefix is not known; and one below the other is Serve's own way.
        (foreign("b", route_prefix="/x"), "/x/v1", None),
        (core("b", "/"), "/other", None),
        (core("b", "/other"), "/", None),
        (core("b", "/x"), "/x/y", None),
        (core("b", "/x"), "/x/v10", None),
        (core("b", "/x/v1x"), "/x", None),
    ],
)
def test_of_two_routes_one_within_the_api_of_the_other(there: Config, wanted: str, path: str | None) -> None:
    merged = merge(state(there), [Change("a", (core("a", wanted), A0))])
    assert merged.conflicts == ({"a": Conflict(wanted, "b", path)} if path else {})


def test_a_deployment_is_not_disturbed_by_one_that_came_into_its_api_later() -> None:
    there = state(core("a", "/x"), core("b", "/x/v1"))
    assert not merge(there, [Change("a", (core("a", "/x", args={"n": 1}),))]).conflicts
    assert merge(there, [Change("a", (core("a", "/"),))]).conflicts == {}
    left = state(core("b", "/x/v1"))
    assert merge(left, [Change("a", (core("a", "/x"),))]).conflicts == {"a": Conflict("/x", "b", "/x/v1")}


def test_of_two_that_want_a_route_at_once_the_earlier_has_it() -> None:
    merged = merge(state(), [Change("a", (core("a", "/x"),)), Change("b", (core("b", "/x"),))])
    assert names(merged.applications) == ["a"]
    assert merged.conflicts == {"b": Conflict("/x", "a")}


def test_a_conflict_leaves_what_runs_and_the_changes_of_others() -> None:
    merged = merge(state(SHOP, A, A0), [Change("a", (core("a", "/shop"),)), Change("b", (B,))])
    assert names(merged.applications) == ["shop", "a", "a.experts-0", "b"]
    assert merged.applications[1] == A


def test_an_application_without_rest_keeps_its_route_and_is_never_written() -> None:
    details = {"status": "RUNNING", "route_prefix": "/x", "deployed_app_config": None, "source": "imperative"}
    there = parse_state({"applications": {"notebook": details}})
    merged = merge(there, [Change("a", (core("a", "/x"),)), Change("b", (B,))])
    assert merged.conflicts == {"a": Conflict("/x", "notebook")}
    assert names(merged.applications) == ["b"]


def test_an_application_on_its_way_out_is_not_written_again_but_still_there() -> None:
    details = {"status": "DELETING", "route_prefix": "/a", "deployed_app_config": None, "source": "declarative"}
    there = parse_state({"applications": {"a": details}})
    assert not merge(there, [Change("a", ())]).changed
    assert owned(there, "a").keys() == {"a"}


def test_fields_beside_the_applications_stay() -> None:
    there = state(SHOP, target_capacity=40.0, proxy_location="HeadOnly", http_options={"port": 9}, proxies={})
    assert json.loads(body(there, [SHOP], [Change("a", (), {"port": 1})])) == {
        "target_capacity": 40.0,
        "proxy_location": "HeadOnly",
        "http_options": {"port": 9},
        "applications": [SHOP],
    }


def test_serve_is_started_with_the_options_of_the_first_change_that_has_some() -> None:
    idle = parse_state({"applications": {}})
    changes = [Change("a", (A,)), Change("b", (B,), {"port": 8000})]
    assert json.loads(body(idle, [A, B], changes)) == {"http_options": {"port": 8000}, "applications": [A, B]}


@pytest.mark.parametrize(
    "details",
    [
        {"deployed_app_config": {"import_path": "shop:app"}},
        {"deployed_app_config": {"import_path": "shop:app", "route_prefix": None, "deployments": None}},
        {"deployed_app_config": {"import_path": 7, "route_prefix": 7, "args": [], "deployments": [7]}},
        {"deployed_app_config": {}, "status": "A_WORD_OF_A_LATER_RAY", "message": 7, "source": 7, "route_prefix": 7},
        {"deployed_app_config": {}, "deployments": [], "message": None},
        {"deployed_app_config": None, "deployments": {"d": None, "e": {"message": ["x"]}}},
    ],
)
def test_whatever_a_foreign_application_lacks_it_stays_as_it_is(details: Any) -> None:
    """Ray leaves out what was left to its default, also the name; that is then its key."""
    there = parse_state({"applications": {"default": {"status": "RUNNING", **details}}})
    merged = merge(there, [Change("a", (core("a", "/team/a"),))])
    assert merged.conflicts == {}
    kept = [] if details["deployed_app_config"] is None or "source" in details else [details["deployed_app_config"]]
    assert list(merged.applications) == [*kept, core("a", "/team/a")]
    assert not merge(there, [Change("b", ())]).changed


def test_a_foreign_application_without_a_name_has_its_route() -> None:
    there = parse_state({"applications": {"default": {"status": "RUNNING", "deployed_app_config": {}}}})
    assert merge(there, [Change("a", (core("a", "/"),))]).conflicts == {"a": Conflict("/", "default")}


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"applications": []},
        {"applications": {"a": {}}},
        {"applications": {"a": {"status": 7}}},
        {"applications": {"a": {"status": "RUNNING", "deployed_app_config": ["?"]}}},
    ],
)
def test_what_is_not_serves_answer_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match="application"):
        parse_state(answer)


OWNERS = ["a", "b", "ab"]
configs = st.sampled_from([core(o) for o in OWNERS] + [shard(f"{o}.experts-{i}") for o in OWNERS for i in range(3)])
worlds = st.lists(st.one_of(configs, st.just(SHOP)), unique_by=lambda c: c["name"])


@given(worlds, st.sets(st.sampled_from(OWNERS)), st.lists(configs, unique_by=lambda c: c["name"]))
def test_changes_touch_their_own_only_and_are_stable(
    there: list[Config], changing: set[str], pool: list[Config]
) -> None:
    def wanted(owner: str) -> tuple[Config, ...]:
        return tuple(c for c in pool if c["name"].partition(".")[0] == owner)

    changes = [Change(owner, wanted(owner)) for owner in sorted(changing)]
    merged = merge(state(*there), changes)
    after = {c["name"]: c for c in merged.applications}
    untouched = {c["name"] for c in there if c["name"].partition(".")[0] not in changing}
    assert untouched <= after.keys()
    assert after.keys() == untouched.union(*(change.names for change in changes))
    assert not merge(state(*merged.applications), changes).changed


def test_the_place_of_a_difference() -> None:
    ours = {"name": "a", "args": {"x": 1}, "deployments": [{"name": "api", "user_config": {"k": [1, 2]}}]}
    for theirs, path in [
        (ours, None),
        (ours | {"args": {"x": 2}}, "args.x"),
        (ours | {"args": {}}, "args.x"),
        (ours | {"more": 1}, "more"),
        (ours | {"deployments": []}, "deployments.api"),
        (ours | {"deployments": [{"name": "api", "user_config": {"k": [1]}}]}, "deployments.api.user_config.k"),
        (ours | {"deployments": "none"}, "deployments"),
    ]:
        assert difference(ours, theirs) == path


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=300), inner, max_size=3),
)


@pytest.mark.slow
@given(values, values)
def test_it_is_found_in_whatever_somebody_writes(left: Any, right: Any) -> None:
    path = difference(left, right)
    assert (path is None) == (left == right)
    assert path is None or len(path) <= MAX_PATH
