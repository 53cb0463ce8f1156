"""Processes of two releases meet in every upgrade: what one tells, the other reads, and a wish restarts nothing."""

import json
import pickle
from datetime import UTC, datetime
from typing import Annotated, Any, get_args

import pytest
from moe_facts import FACTS
from released import FOLDER, KUBE_RAY_WISHES, WISHES, deployment, fields, ray_service, rendered, wire_types

from moe_contract.applications import DIRECTORY, USER_CONFIGS, ModelArgs
from moe_contract.base import CONTRACT, Since, WireModel, contract_of, unknown_fields
from moe_contract.model import ModelProblem, ModelProblemReason
from moe_contract.report import CandidateReport, DirectoryReport, Progress, ShardReport
from moe_operator.reconcile.world import World
from moe_operator.runtimes.kube_ray.clusters import of_pods
from moe_operator.runtimes.kube_ray.manifests.names import SERVE_CONFIG
from moe_operator.runtimes.port import RuntimeState, Told

REPORT = DirectoryReport(
    term=1, revision=2, epoch=3, shards=(ShardReport(index=0, phase="Ready"),),
    progress=Progress(copied=1, total=1, settled=True), contract=CONTRACT,
)  # fmt: skip
RELEASES = sorted(path.stem for path in FOLDER.glob("*.json"))


class Inner(WireModel):
    """In a release of contract 3."""

    size: int = 1
    colour: Annotated[str | None, Since(2)] = None


class Outer(WireModel):
    """Likewise."""

    name: str = ""
    one: Inner = Inner()
    many: tuple[Inner, ...] = ()
    shape: Annotated[tuple[int, ...], Since(3)] = ()


def release(version: str) -> Any:
    return json.loads((FOLDER / f"{version}.json").read_text())


RAY_SERVICES = [(version, wish) for version in RELEASES for wish in release(version).get("ray_services", ())]


def test_there_are_former_releases() -> None:
    assert {"0.1.0", "0.2.0"} <= set(RELEASES)
    assert set(RAY_SERVICES) >= {("0.2.0", wish) for wish in KUBE_RAY_WISHES}


@pytest.mark.parametrize("version", RELEASES)
def test_fields_are_only_added_with_their_contract_and_a_default(version: str) -> None:
    before, now = release(version)["fields"], fields()
    missing = {kind: set(names) - set(now.get(kind, ())) for kind, names in before.items()}
    assert not any(missing.values()), missing
    for kind in wire_types():
        added = kind.model_fields.keys() - set(before.get(kind.__name__, kind.model_fields))
        for name in added:
            field = kind.model_fields[name]
            since = [mark.contract for mark in field.metadata if isinstance(mark, Since)]
            assert since and 0 < since[0] <= CONTRACT, f"{kind.__name__}.{name} needs Annotated[..., Since(CONTRACT)]"
            assert not field.is_required(), f"{kind.__name__}.{name} needs a default: what was before it"


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("version", RELEASES)
def test_what_a_former_release_rendered_is_rendered_again(version: str, wish: str) -> None:
    """Beside its data plane, and beside one of this release: no process restarts, and it is told what it knows."""
    before = release(version)["rendered"][wish]
    assert rendered(WISHES[wish]) == before
    now = rendered(WISHES[wish], CONTRACT)
    # In the configuration of the directory, of which a change restarts nothing.
    (directory,) = (each for each in now[0]["deployments"] if each["name"] == DIRECTORY)
    assert directory["user_config"].pop("model_digest") == FACTS.digest
    assert now == before


@pytest.mark.parametrize(("version", "wish"), RAY_SERVICES)
def test_a_ray_cluster_of_a_former_release_goes_on_beside_this_one(version: str, wish: str) -> None:
    """KubeRay starts another one where its fields are others, but for numbers of pods; and Serve restarts what is told
    otherwise, but for user_config. Where this fails after a release, the change has to wait for one of the user's."""
    before, now = release(version)["ray_services"][wish], ray_service(KUBE_RAY_WISHES[wish])
    assert of_pods(now["rayClusterConfig"]) == of_pods(before["rayClusterConfig"])
    for told in (before[SERVE_CONFIG], now[SERVE_CONFIG]):
        for application in told["applications"]:
            for each in application["deployments"]:
                each.pop("user_config", None)
    assert now[SERVE_CONFIG] == before[SERVE_CONFIG]


def test_while_the_directory_is_away_processes_are_told_the_same() -> None:
    """And before the first word of theirs nothing that the first release does not know."""
    told = {"core": Told(model=None, contract=7), "shard": Told(model=None, contract=2)}
    for known, contract in (
        (RuntimeState(), 0),
        (RuntimeState(told=told), 7),
        (RuntimeState(told=told, report=REPORT), CONTRACT),
    ):
        world = World(deployment(WISHES["with all defaults"]), datetime(2026, 1, 2, tzinfo=UTC), known)
        assert world.contract == contract


def test_who_reads_leaves_out_what_it_does_not_know() -> None:
    newer = json.loads(REPORT.model_dump_json()) | {"later": {"deep": [1] * 100}}
    newer["shards"][0]["later"] = newer["progress"]["later"] = 1
    assert DirectoryReport.model_validate_json(json.dumps(newer)) == REPORT
    assert unknown_fields(DirectoryReport, newer) == ("shards.0.later", "progress.later", "later")
    assert unknown_fields(DirectoryReport, json.loads(REPORT.model_dump_json())) == ()


def test_what_a_process_of_another_release_pickled_is_read_likewise() -> None:
    state = REPORT.__getstate__()
    told = {name: value for name, value in state["__dict__"].items() if name != "contract"} | {"later": [1]}
    found = DirectoryReport.__new__(DirectoryReport)
    found.__setstate__(state | {"__dict__": told})
    assert found.told() == REPORT.told(0)
    assert found.contract == 0
    assert pickle.loads(pickle.dumps(REPORT)) == REPORT


def test_of_very_many_unknown_fields_some_are_named() -> None:
    unknown = unknown_fields(Inner, {f"{number:0>500}": 1 for number in range(1000)})
    assert len(unknown) == 8
    assert {len(name) for name in unknown} == {64}


@pytest.mark.parametrize(
    ("contract", "told", "withheld"),
    [
        (3, {"one": {"size": 1, "colour": "red"}, "many": [{"size": 2}, {"size": 3, "colour": "b"}], "shape": [1]}, ()),
        (2, {"one": {"size": 1, "colour": "red"}, "many": [{"size": 2}, {"size": 3, "colour": "b"}]}, ("shape",)),
        (0, {"one": {"size": 1}, "many": [{"size": 2}, {"size": 3}]}, ("one.colour", "many.colour", "shape")),
    ],
)  # fmt: skip
def test_who_writes_leaves_out_what_the_other_does_not_know(contract: int, told: Any, withheld: tuple[str]) -> None:
    wish = Outer(one=Inner(colour="red"), many=(Inner(size=2), Inner(size=3, colour="b")), shape=(1,))
    assert wish.told(contract) == {"name": ""} | told
    assert wish.withheld(contract) == withheld


def test_a_wish_without_what_is_new_is_told_as_before() -> None:
    wish = Outer(one=Inner(size=4))
    assert wish.told(3) == {"name": "", "one": {"size": 4}, "many": []}
    assert wish.withheld(0) == ()


def test_the_contract_of_what_was_told() -> None:
    assert contract_of(Outer, {"name": "a", "other": 1}) == 0
    assert contract_of(Outer, {"name": "a", "shape": [1]}) == 3


def test_a_directory_tells_its_contract_only_to_who_knows_of_it() -> None:
    assert REPORT.told()["contract"] == CONTRACT
    assert "contract" not in REPORT.told(0)
    assert DirectoryReport.model_validate(REPORT.told(0)).contract == 0


@pytest.mark.parametrize("reason", get_args(ModelProblemReason))
def test_the_first_release_is_told_only_reasons_that_it_knows(reason: ModelProblemReason) -> None:
    """It reads no report with another one."""
    known = {
        "PathNotFound", "ConfigMissing", "ConfigInvalid", "NotMixtureOfExperts", "UnsupportedArchitecture",
        "WeightsMissing", "WeightsTruncated", "TokenizerMissing",
    }  # fmt: skip
    problem = ModelProblem(reason=reason, message="HTTP 401")
    candidate = CandidateReport(args=ModelArgs(path="/models/a"), model_problem=problem)
    report = REPORT.model_copy(update={"model_problem": problem, "candidate": candidate})
    for contract in (0, CONTRACT):
        told = report.told(contract)
        for each in (told["model_problem"], told["candidate"]["model_problem"]):
            assert each["message"] == "HTTP 401"
            assert each["reason"] == (reason if contract or reason in known else "PathNotFound")


def test_every_user_config_has_its_type() -> None:
    for application in rendered(WISHES["with all defaults"]):
        for each in application["deployments"]:
            assert unknown_fields(USER_CONFIGS[each["name"]], each["user_config"]) == ()
