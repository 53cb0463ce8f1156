"""What Serve tells of a deployment, in the port's words; anybody may have edited what it has."""

import copy
from dataclasses import replace
from typing import Any

import pytest
from data_plane import DataPlane, deployment, told_by

from moe_contract.applications import CORE_IMPORT_PATH
from moe_contract.serve.merge import Change
from moe_contract.serve.state import Application, ServeState, parse_state
from moe_operator.runtimes.port import ApplicationPhase, RuntimeState, Told
from moe_operator.runtimes.ray_cluster.render import change_of
from moe_operator.runtimes.ray_cluster.state import ABSENT_CERTAIN_SECONDS, runtime_state

OTHER_MODEL = {"model": {"source": {"path": "models/other"}}}


def settled() -> DataPlane:
    plane = DataPlane(deployment(shards=2))
    plane.settle()
    return plane


def written(plane: DataPlane) -> Change:
    """What the intent that settles has Serve told."""
    return change_of(plane.moe, plane.decide().desired)


def serve(change: Change, **details: Any) -> ServeState:
    """Of which a GET tells after that was written; ``details``: fields of every application."""
    told = {
        config["name"]: {"status": "RUNNING", "deployed_app_config": config, **details}
        for config in change.applications
    }
    return parse_state({"controller_info": {"actor_id": "c"}, "applications": told})


def without(state: ServeState, *names: str) -> ServeState:
    left = {name: each for name, each in state.applications.items() if name not in names}
    return replace(state, applications=left)


def test_what_was_desired_is_what_was_told() -> None:
    plane = settled()
    state = runtime_state(serve(written(plane)), plane.moe)
    assert state.told == told_by(plane.decide())
    assert state.applications == plane.applications
    assert state.is_known
    assert not state.nothing_is_left


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("RUNNING", ApplicationPhase.RUNNING),
        ("UNHEALTHY", ApplicationPhase.UNHEALTHY),
        ("DEPLOY_FAILED", ApplicationPhase.FAILED),
        ("DEPLOYING", ApplicationPhase.STARTING),
        ("NOT_STARTED", ApplicationPhase.STARTING),
        ("of a later release", ApplicationPhase.STARTING),
    ],
)
def test_phases(status: str, phase: ApplicationPhase) -> None:
    plane = settled()
    core = runtime_state(serve(written(plane), status=status), plane.moe).applications[plane.name]
    assert core.phase is phase
    assert (core.problem is not None) == (phase in (ApplicationPhase.UNHEALTHY, ApplicationPhase.FAILED))


@pytest.mark.parametrize(
    ("replicas", "moved"),
    [
        ([{"state": "PENDING_MIGRATION"}, {"state": "STARTING"}], True),
        ([{"state": "RUNNING"}], False),
        ([], False),
        (["PENDING_MIGRATION", None, {"state": ["PENDING_MIGRATION"]}], False),
        ({"state": "PENDING_MIGRATION"}, False),
        (None, False),
    ],
)
def test_whether_it_is_moved_off_a_node_that_is_being_drained(replicas: Any, moved: bool) -> None:
    plane = settled()
    deployments = {"experts": {"replicas": replicas}, "other": None}
    state = runtime_state(serve(written(plane), deployments=deployments), plane.moe)
    assert {each.moved for each in state.applications.values()} == {moved}


def test_what_is_on_its_way_out_was_told_nothing() -> None:
    plane = settled()
    state = runtime_state(serve(written(plane), status="DELETING", deployed_app_config=None), plane.moe)
    assert state.told == {}
    assert len(state.applications) == 3
    assert all(each.leaving for each in state.applications.values())
    assert not state.nothing_is_left


def test_foreign_applications_with_our_name_are_not_ours() -> None:
    moe = deployment()
    name = settled().name
    foreign = Application(name, "RUNNING", config={"name": name, "import_path": "shop:app"})
    state = runtime_state(ServeState("c", applications={name: foreign}), moe)
    assert (state.applications, state.told) == ({}, {})


def test_what_a_foreign_writer_removed_is_remembered() -> None:
    plane = settled()
    change = written(plane)
    there = serve(change)
    before = runtime_state(there, plane.moe).told
    lost = without(there, plane.name)
    assert runtime_state(lost, plane.moe, remembered=change).told == before
    assert plane.name not in runtime_state(lost, plane.moe).told
    # While the core is there, what it was told says which shards there should be.
    lost = without(there, plane.shard_names[0])
    assert runtime_state(lost, plane.moe, remembered=change).told.keys() == lost.applications.keys()


def test_a_memory_of_another_model_is_not_believed() -> None:
    plane = settled()
    change = written(plane)
    plane.change(shards=1, spec=OTHER_MODEL)
    assert runtime_state(ServeState("c"), plane.moe, remembered=change).told == {}


def test_what_somebody_edited_is_not_believed_where_it_is_remembered() -> None:
    plane = settled()
    change = written(plane)
    edited = serve(change)
    core = dict(change.applications[0]) | {"args": {"application": plane.name, "model": {"path": "models/other"}}}
    edited = serve(Change(change.core, (core, *change.applications[1:])))
    assert (
        runtime_state(edited, plane.moe).told[plane.name].model
        != runtime_state(serve(change), plane.moe).told[plane.name].model
    )
    state = runtime_state(edited, plane.moe, remembered=change, edited=[plane.name])
    assert state.told == runtime_state(serve(change), plane.moe).told


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"args": []},
        {"args": {"model": "models/tiny"}, "deployments": "many"},
        {"args": {"model": {"path": 7}}, "deployments": ["x", {"name": ["directory"]}, {"user_config": {}}]},
        {"deployments": [{"name": "directory", "user_config": {"revision": "many"}}]},
        {"deployments": [{"name": "directory", "user_config": 7}, {"name": "api"}, {"name": "experts"}]},
        {"deployments": [{"name": "experts", "user_config": {"slots_per_shard": "many"}}]},
    ],
)
def test_what_cannot_be_read_is_not_known(config: dict[str, Any]) -> None:
    plane = settled()
    change = Change(plane.name, ({"name": plane.name, "import_path": CORE_IMPORT_PATH, **config},))
    assert runtime_state(serve(change), plane.moe).told == {plane.name: Told(None, directory=None)}


def test_what_another_release_told_is_read() -> None:
    """With fields that this one has no more, or not yet."""
    plane = settled()
    change = written(plane)
    core = copy.deepcopy(change.applications[0])
    core["args"]["model"]["seed"] = 1
    directory = next(each["user_config"] for each in core["deployments"] if each["name"] == "directory")
    directory["order"] = None
    directory["shards"][0]["node"] = "a"
    state = runtime_state(serve(Change(change.core, (core, *change.applications[1:]))), plane.moe)
    assert state.told == told_by(plane.decide())


@pytest.mark.parametrize(
    ("controller", "seconds", "certain"),
    [("c", 0.0, True), ("", 0.0, False), ("", ABSENT_CERTAIN_SECONDS, True)],
)
def test_when_it_is_certain_that_nothing_is_left(controller: str, seconds: float, certain: bool) -> None:
    state = runtime_state(ServeState(controller), deployment(), absent_seconds=seconds)
    assert state.nothing_is_left == certain


def test_a_state_that_could_not_be_read_is_not_known() -> None:
    assert not RuntimeState().is_known
