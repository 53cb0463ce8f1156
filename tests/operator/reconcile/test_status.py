"""What is told of the world: conditions with their reasons, through whole lives."""

from dataclasses import replace
from datetime import timedelta
from typing import Annotated

import pytest
from data_plane import deployment
from epochs import epoch_figures
from intents import desired
from told import DEGRADED, PROGRESSING, READY, message, told

from moe_contract.applications import AttentionConfig, RecordConfig, RoutingConfig
from moe_contract.base import CONTRACT, Since
from moe_contract.model import ModelProblem
from moe_contract.rendering import render
from moe_contract.report import NOT_ADAPTIVE, NOT_FP8, NOT_RECORDED, AdaptiveReport, Progress, Traffic
from moe_operator.api import Reason
from moe_operator.finding import Finding
from moe_operator.reconcile.intent import Step
from moe_operator.reconcile.status import next_status
from moe_operator.runtimes.port import ApplicationPhase

UNREACHABLE = Finding(Reason.RAY_UNREACHABLE, "http://ray:8265: connection refused")


def test_recording_is_told_where_it_was_asked_for(make_plane) -> None:
    record = {"path": "/traces", "sampleRows": 7, "maxBytes": "2Mi"}
    plane = make_plane(spec={"rebalance": {"record": record}})
    assert desired(plane.decide()).attention.record == RecordConfig(path="/traces", sample_rows=7, max_bytes=2 << 20)
    assert told(plane.tell())["Recording"] == "Unknown StartingAttention"
    plane.run()
    plane.run()
    status = plane.tell()
    assert told(status)["Recording"] == "True Recording"
    assert message(status, "Recording") == "attention replicas write files of live traffic to /traces"
    plane.attention_problem = f"{NOT_RECORDED}: [Errno 28] No space left on device"
    status = plane.tell()
    assert told(status)["Recording"] == "False NotRecorded"
    assert "attention replica a: traffic cannot be recorded: [Errno 28]" in message(status, "Recording")
    assert (told(status)["Ready"], told(status)["Degraded"]) == ("True Available", "False AsExpected")
    plane.attention_problem = "its configuration was refused"
    assert told(plane.tell())["Recording"] == "Unknown ConfigurationRefused"
    plane.attention_problem = f"{NOT_RECORDED}: [Errno 28] No space left on device"
    plane.moe = plane.moe.model_copy(update={"spec": deployment().spec})
    status = plane.tell()
    assert "Recording" not in told(status)
    assert told(status)["Degraded"] == "False AsExpected", "it stops in a moment"
    assert desired(plane.decide()).attention.record is None


def test_adaptive_routing_is_told_where_it_was_asked_for(make_plane) -> None:
    """What is refused is no trouble of what serves: all is computed."""
    asked = {"mode": "Adaptive", "pairsSaved": 20, "maxLossIncrease": "0.01", "calibration": {"path": "/c.json"}}
    plane = make_plane(spec={"routing": asked})
    config = RoutingConfig(pairs_saved=20, max_loss_increase=0.01, calibration="/c.json")
    assert desired(plane.decide()).attention.routing == config
    assert told(plane.tell())["AdaptiveRouting"] == "Unknown StartingAttention"
    plane.run()
    plane.run()
    assert told(plane.tell())["AdaptiveRouting"] == "Unknown StartingAttention", "it has not begun"
    plane.attention_problem = f"{NOT_ADAPTIVE}: calibration /c.json cannot be read"
    status = plane.tell()
    assert told(status)["AdaptiveRouting"] == "False NotAdaptive"
    assert "attention replica a: all pairs are computed, though" in message(status, "AdaptiveRouting")
    assert (told(status)["Ready"], told(status)["Degraded"]) == ("True Available", "False AsExpected")
    plane.attention_problem = None
    plane.adaptive = AdaptiveReport(
        pairs_saved=20, loss_increase=0.004, loss_low=0.003, loss_high=0.0052, held_out_tokens=9000
    )
    status = plane.tell()
    assert told(status)["AdaptiveRouting"] == "True Adaptive"
    assert message(status, "AdaptiveRouting") == (
        "20% of the pairs are left out; on 9000 held-out tokens the loss grew by +0.0040 (95%: +0.0030 to +0.0052)"
    )
    plane.moe = plane.moe.model_copy(update={"spec": deployment().spec})
    assert "AdaptiveRouting" not in told(plane.tell())
    assert desired(plane.decide()).attention.routing is None


@pytest.mark.parametrize("routing", [{}, {"mode": "Exact", "pairsSaved": 30, "calibration": {"path": "/c.json"}}])
def test_with_exact_routing_nobody_is_told_of_any(make_plane, routing) -> None:
    plane = make_plane(spec={"routing": routing})
    core = render(desired(plane.decide()))[0]
    assert core == render(desired(make_plane().decide()))[0]
    assert not any({"routing", "pairs_saved"} & set(each["user_config"]) for each in core["deployments"])


def test_fp8_rows_are_told_where_they_were_asked_for(make_plane) -> None:
    plane = make_plane(spec={"experts": {"shards": 2, "wire": "FP8"}})
    assert desired(plane.decide()).attention.wire == "FP8"
    plane.run()
    plane.run()
    assert told(plane.tell())["FP8Wire"] == "Unknown StartingAttention", "it has not begun"
    plane.attention_problem = f"{NOT_FP8}: device cpu has no e4m3: not implemented; set wire to Model"
    status = plane.tell()
    assert told(status)["FP8Wire"] == "False NotFP8"
    assert "attention replica a: rows travel as the model's numbers, though" in message(status, "FP8Wire")
    assert (told(status)["Ready"], told(status)["Degraded"]) == ("True Available", "False AsExpected")
    plane.attention_problem, plane.wire = None, "FP8"
    assert told(plane.tell())["FP8Wire"] == "True FP8"
    plane.moe = plane.moe.model_copy(update={"spec": deployment().spec})
    assert "FP8Wire" not in told(plane.tell())


@pytest.mark.parametrize("contract", [0, CONTRACT])
def test_fp8_weights_are_told_by_the_first_word_so_that_nothing_starts_twice(make_plane, contract) -> None:
    """Arguments that came only once the directory has told its contract would restart what has just started."""
    plane = make_plane(spec={"experts": {"shards": 2, "weights": "FP8"}})
    wish = replace(desired(plane.decide()), contract=contract)
    for application in render(wish):
        assert application["args"]["model"]["weights"] == "FP8"
    plane.run()
    plane.run()
    assert desired(plane.decide()).model == plane.moe.model_args
    status = plane.tell()
    assert told(status)["Ready"] == "True Available"
    assert not message(status, "ModelValid").endswith(", experts held as FP8")
    plane.facts = plane.facts.model_copy(update={"weights": "FP8"})
    assert message(plane.tell(), "ModelValid").endswith(", served in float32, experts held as FP8")


def test_with_the_models_numbers_on_the_wire_nobody_is_told_of_it(make_plane) -> None:
    core = render(desired(make_plane(spec={"experts": {"shards": 2, "wire": "Model"}}).decide()))[0]
    assert not any("wire" in each["user_config"] for each in core["deployments"])


class LaterConfig(AttentionConfig):
    """Of a release after this one."""

    colour: Annotated[str, Since(CONTRACT + 1)] = ""


@pytest.mark.parametrize(("colour", "contract", "said"), [("", 0, None), ("red", 9, None), ("red", CONTRACT, "colour")])
def test_what_an_older_data_plane_is_not_told(make_plane, colour: str, contract: int, said: str | None) -> None:
    plane = make_plane()
    plane.run()
    world, intent = plane.world(), plane.decide()
    wanted = replace(desired(intent), attention=LaterConfig(colour=colour), contract=contract)
    status = next_status(world, replace(intent, desired=wanted), None)
    assert told(status).get("DataPlaneBehind") == (said and "True OlderRelease")
    if said:
        assert f"is not told attention.{said}: install" in message(status, "DataPlaneBehind")
    assert told(status)["Degraded"] == "False AsExpected"


def test_a_core_that_cannot_start_and_be_read_tells_the_cure(make_plane) -> None:
    plane = make_plane(shards=4)
    plane.settle()
    plane.change(shards=2)
    plane.told[plane.name] = replace(plane.told[plane.name], directory=None)
    plane.more = {"report": None}
    plane.set_phase(plane.name, ApplicationPhase.FAILED, Finding(Reason.DEPLOY_FAILED, "no such module"))
    status = plane.tell()
    assert told(status)["Degraded"] == "True DeployFailed"
    assert "no such module; what Serve has as user_config" in message(status, "Degraded")
    assert "kubectl scale moe/tiny --replicas=0" in message(status, "Degraded")
    # Which it is.
    plane.change(shards=0)
    assert plane.decide().step is Step.SLEEP
    plane.run()
    assert plane.applications == {}


def test_a_configuration_that_a_replica_refuses_is_told(make_plane) -> None:
    plane = make_plane()
    plane.run()
    plane.run()
    plane.attention_problem = "user_config of attention is refused, the old one stays: record.path: too short"
    status = plane.tell()
    assert (told(status)["Ready"], told(status)["Degraded"]) == ("True Available", "True ConfigurationRefused")
    assert "the old one stays: record.path" in message(status, "Degraded")


def test_a_life(make_plane) -> None:
    plane = make_plane(shards=2)
    facts, plane.facts, plane.answers = plane.facts, None, False

    status = plane.tell()
    assert told(status) == {
        "Ready": "False DeployingCore",
        "Progressing": "True DeployingCore",
        "Degraded": "False AsExpected",
        "ModelValid": "Unknown InspectingModel",
        "RuntimeReachable": "True Reachable",
    }
    assert (status.observed_generation, status.url, status.shards) == (1, "http://ray:8000/team/tiny/v1", 0)

    plane.run()
    assert told(plane.tell())["Progressing"] == "True DeployingCore"
    plane.answers = True
    assert told(plane.tell())["Progressing"] == "True InspectingModel"
    plane.facts, plane.settled, plane.ready = facts, False, False
    plane.run()
    status = plane.tell()
    assert told(status)["ModelValid"] == "True ModelRead"
    assert told(status)["Ready"] == "False LoadingExperts"
    assert (status.slots_per_shard, status.shards, status.ready_shards) == (4, 2, 0)
    plane.settled = True
    assert told(plane.tell())["Progressing"] == "True StartingAttention"
    plane.ready = True
    status = plane.tell()
    assert told(status) == {
        "Ready": "True Available",
        "Progressing": "False Settled",
        "Degraded": "False AsExpected",
        "ModelValid": "True ModelRead",
        "RuntimeReachable": "True Reachable",
    }
    assert (status.shards, status.ready_shards, status.placement.revision) == (2, 2, 1)
    assert status.model.experts == 8

    # Scaling: Ready stays.
    plane.change(shards=4)
    plane.settled = False
    for _ in range(3):
        scaling = told(plane.tell())
        assert (scaling["Ready"], scaling["Progressing"]) == ("True Available", "True Scaling")
        plane.run()
    plane.settled = True
    assert told(plane.tell())["Progressing"] == "False Settled"

    # A lost shard that comes back loads its experts again.
    plane.settled = False
    assert told(plane.tell())["Progressing"] == "True LoadingExperts"
    plane.settled = True
    assert told(plane.tell())["Progressing"] == "False Settled"

    plane.change(shards=0)
    assert told(plane.tell())["Progressing"] == "True Scaling"
    plane.run()
    status = plane.tell()
    assert told(status)["Ready"] == "True Asleep"
    assert told(status)["Progressing"] == "False Asleep"
    assert status.shards == 0


def test_a_status_repeats_itself_while_the_world_does_not_change(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    first = plane.tell()
    plane.now += timedelta(hours=1)
    assert plane.tell() == first
    plane.more = {"unreachable": UNREACHABLE, "unreachable_seconds": 60.0, "report": None}
    for minutes in (9, 60, 600):
        # After ten minutes it is stuck for kstatus; told once.
        second = plane.tell()
        plane.now += timedelta(minutes=minutes)
        plane.more["unreachable_seconds"] = 3660.0
        assert (plane.tell() == second) == (minutes != 60)


def test_transition_times_are_those_of_the_status_not_of_the_reason(make_plane) -> None:
    plane = make_plane(shards=2)
    before = plane.tell().condition(READY)
    plane.now += timedelta(minutes=1)
    plane.run()
    plane.ready = False
    later = plane.tell().condition(READY)
    assert before.reason != later.reason
    assert before.last_transition_time == later.last_transition_time == "2026-01-02T03:04:05Z"
    plane.settle()
    plane.ready = True
    assert plane.tell().condition(READY).last_transition_time == "2026-01-02T03:05:05Z"


@pytest.mark.parametrize(
    "reason",
    [
        Reason.RAY_UNREACHABLE,
        Reason.RAY_AUTH_FAILED,
        Reason.NOT_A_RAY_DASHBOARD,
        Reason.RAY_ADDRESS_REFUSED,
    ],
)
def test_a_ray_that_cannot_be_read(make_plane, reason: Reason) -> None:
    plane = make_plane(shards=2)
    plane.more = {"keys": None, "unreachable": Finding(reason, "why")}
    assert told(plane.tell()) == {
        "Ready": f"False {reason}",
        "Progressing": f"False {reason}",
        "Degraded": f"True {reason}",
        "ModelValid": "Unknown InspectingModel",
        "RuntimeReachable": f"False {reason}",
    }


def test_a_ray_that_misses_a_call_is_not_told_of_at_once(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.tell()
    plane.more = {"unreachable": UNREACHABLE, "unreachable_seconds": 1.0}
    assert plane.tell() == before
    plane.more["unreachable_seconds"] = 6.0
    after = told(plane.tell())
    assert (after["RuntimeReachable"], after["Degraded"]) == ("False RayUnreachable", "True RayUnreachable")
    # The directory still answers: tokens flow without a dashboard.
    assert after["Ready"] == "True Available"


@pytest.mark.parametrize("reason", [Reason.SECRET_MISSING, Reason.SECRET_NOT_LABELLED, Reason.SECRET_INVALID])
def test_a_token_that_cannot_be_had(make_plane, reason: Reason) -> None:
    plane = make_plane(shards=2)
    plane.more = {"keys": None, "unasked": Finding(reason, "why")}
    status = told(plane.tell())
    assert status["Ready"] == f"False {reason}"
    assert status["RuntimeReachable"] == f"Unknown {reason}"


def test_keys_and_ray_in_trouble_at_once(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    keys = Finding(Reason.SECRET_MISSING, "why")
    plane.more = {"keys": None, "key_problem": keys}
    plane.more |= {"unreachable": UNREACHABLE, "unreachable_seconds": 9.0}
    status = told(plane.tell())
    assert status["Degraded"] == "True SecretMissing"
    assert status["RuntimeReachable"] == "False RayUnreachable"


def test_a_message_is_never_too_long_to_be_told(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.more = {"keys": None, "unreachable": Finding(Reason.RAY_UNREACHABLE, "x" * 100_000)}
    assert len(message(plane.tell(), READY)) == 4096


def test_a_bad_model(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.run()
    plane.facts, plane.problem = None, ModelProblem(reason="PathNotFound", message="no directory models/tiny")
    status = plane.tell()
    assert told(status) == {
        "Ready": "False PathNotFound",
        "Progressing": "False PathNotFound",
        "Degraded": "True PathNotFound",
        "ModelValid": "False PathNotFound",
        "RuntimeReachable": "True Reachable",
    }
    assert message(status, READY) == "no directory models/tiny"


def test_what_the_model_cannot_do(make_plane) -> None:
    plane = make_plane(shards=9)
    plane.run()
    assert told(plane.tell())["Ready"] == "False TooManyShards"
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=9)
    status = told(plane.tell())
    assert (status["Ready"], status["Degraded"]) == ("True Available", "True TooManyShards")


@pytest.mark.parametrize("reason", [Reason.PACKAGE_MISSING, Reason.DEPLOY_FAILED])
def test_an_application_that_cannot_be_started(make_plane, reason: Reason) -> None:
    plane = make_plane(shards=2)
    plane.run()
    plane.answers = False
    plane.set_phase(plane.name, ApplicationPhase.FAILED, Finding(reason, "why"))
    status = plane.tell()
    assert told(status)["Ready"] == told(status)["Progressing"] == f"False {reason}"
    assert message(status, DEGRADED) == "why"
    # Told on, the same, while it is being tried anew.
    core = plane.applications.pop(plane.name)
    assert plane.tell() == status
    plane.applications[plane.name] = core
    plane.set_phase(plane.name, ApplicationPhase.STARTING)
    assert plane.tell() == status
    plane.set_phase(plane.name, ApplicationPhase.RUNNING)
    assert told(plane.tell())["Degraded"] == "False AsExpected"


def test_a_directory_that_cannot_be_asked(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.tell()
    plane.answers = False
    why = Finding(Reason.DIRECTORY_UNREACHABLE, "HTTP 503")
    plane.more = {"report_problem": why, "report_failing_seconds": 3.0}
    assert told(plane.tell()) == told(before)
    plane.more = {"report_problem": why, "report_failing_seconds": 12.0}
    assert told(plane.tell())["Degraded"] == "True DirectoryUnreachable"
    assert told(plane.tell())["Ready"] == "True Available"
    assert plane.tell().placement == before.placement
    plane.more = {"report_problem": why, "report_failing_seconds": 31.0}
    assert told(plane.tell())["Ready"] == "False DirectoryUnreachable"


def test_a_scale_down_says_which_shards_leave_and_what_they_wait_for(make_plane) -> None:
    plane = make_plane(shards=4, slotsPerShard=8)
    plane.settle()
    plane.change(shards=2, slotsPerShard=8)
    said = message(plane.tell(), PROGRESSING)
    first = "shards 2, 3 leave: emptied first, then removed; "
    assert said == first + "the directory is being told of the placement wanted"
    plane.settled = False
    plane.run()
    for copied, says in (
        (9, "9 of 16 expert copies are in place"),
        (16, "all 16 expert copies are in place; they come into use, and what they replace is freed"),
    ):
        report = plane.report()
        report = report.model_copy(update={"progress": Progress(copied=copied, total=16, settled=False)})
        assert message(plane.tell(report=report), PROGRESSING) == first + says
    plane.settled = True
    assert message(plane.tell(), PROGRESSING) == "shards 2, 3 leave: empty, to be removed"
    plane.run()
    assert told(plane.tell())["Progressing"] == "False Settled"


def test_suspended(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=4, spec={"suspend": True})
    status = told(plane.tell())
    assert (status["Ready"], status["Progressing"]) == ("True Available", "False Suspended")
    status = told(make_plane(shards=2, spec={"suspend": True}).tell())
    assert (status["Ready"], status["Progressing"]) == ("True Suspended", "False Suspended")


def test_another_model(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    model = plane.tell().model
    plane.change(shards=2, spec={"model": {"source": {"path": "models/other"}}})
    plane.candidate = None
    looking = {
        "Ready": "True Available",
        "Progressing": "True InspectingModel",
        "Degraded": "False AsExpected",
        "ModelValid": "Unknown InspectingModel",
        "RuntimeReachable": "True Reachable",
    }
    assert told(plane.tell()) == looking
    plane.run()
    assert told(plane.tell()) == looking
    plane.candidate = ModelProblem(reason="PathNotFound", message="no models/other")
    status = plane.tell()
    assert told(status) == looking | {
        "Progressing": "False PathNotFound",
        "Degraded": "True PathNotFound",
        "ModelValid": "False PathNotFound",
    }
    assert message(status, DEGRADED) == "no models/other"
    assert status.model == model
    plane.candidate = plane.facts
    status = plane.tell()
    assert told(status)["Ready"] == "False DeployingCore"
    assert told(status)["ModelValid"] == "Unknown InspectingModel"
    assert status.model is None


def test_from_one_bad_model_to_another(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.run()
    plane.facts, plane.problem = None, ModelProblem(reason="PathNotFound", message="no models/tiny")
    assert told(plane.tell())["Ready"] == "False PathNotFound"
    plane.change(shards=2, spec={"model": {"source": {"path": "models/other"}}})
    plane.candidate = None
    plane.run()
    assert told(plane.tell())["Ready"] == "False InspectingModel"
    plane.candidate = ModelProblem(reason="ConfigMissing", message="no config.json in models/other")
    assert told(plane.tell())["Ready"] == "False ConfigMissing"


def test_figures_are_told_anew_only_when_they_have_moved(make_plane) -> None:
    def traffic(balance: float, fan_out: float, epoch: int) -> Traffic:
        return Traffic(epochs=(epoch_figures(epoch, rows=900, fan_out=fan_out, balance=balance),))

    plane = make_plane(shards=2)
    plane.settle()
    epoch = plane.tell().placement.epoch
    assert plane.tell().placement.balance is None
    plane.traffic = traffic(1.0, 1.31, epoch)
    placed = plane.tell().placement
    assert (placed.balance, placed.fan_out) == ("1.00", "1.31")
    plane.traffic = traffic(0.99, 1.319, epoch)
    assert plane.tell().placement == placed
    plane.traffic = traffic(0.5, 1.5, epoch)
    placed = plane.tell().placement
    assert (placed.balance, placed.fan_out) == ("0.50", "1.50")
    plane.traffic = traffic(0.5, 1.5, epoch + 1)
    assert plane.tell().placement == placed, "of another table than the one in force"


def test_the_url_is_of_what_runs(make_plane) -> None:
    plane = make_plane(shards=2)
    assert plane.tell().url == "http://ray:8000/team/tiny/v1"
    plane.settle()
    plane.change(shards=2, spec={"serving": {"routePrefix": "/taken"}})
    assert plane.tell().url == "http://ray:8000/team/tiny/v1"
    plane.more = {"unreachable": UNREACHABLE}
    assert plane.tell().url == "http://ray:8000/team/tiny/v1"
    plane.more = {}
    plane.run()
    assert plane.tell().url == "http://ray:8000/taken/v1"


def test_what_cannot_be_seen_stays_as_it_was_told(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    before = plane.tell()
    plane.more = {"unreachable": UNREACHABLE, "unreachable_seconds": 99.0}
    after = plane.tell(report=None, report_failing_seconds=99.0)
    assert (after.shards, after.model, after.placement) == (before.shards, before.model, before.placement)
    assert after.ready_shards == 0
    assert told(after)["ModelValid"] == "True ModelRead"
    assert told(after)["Ready"] == "False RayUnreachable"
