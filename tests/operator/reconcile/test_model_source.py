"""A model that is kept elsewhere: how the data plane is told of it, and how its arrival is told."""

from data_plane import DataPlane, deployment
from intents import desired

from moe_contract.model import ModelProblem
from moe_contract.report import Fetched
from moe_operator.api import ConditionType, Reason

REVISION = "0123456789abcdef0123456789abcdef01234567"
HUGGING_FACE = {"model": {"source": {"huggingFace": {"repo": "team/tiny", "revision": REVISION}}}}


def test_its_path_names_repository_and_commit() -> None:
    plane = DataPlane(deployment(spec=HUGGING_FACE))
    assert desired(plane.run()).model.path == f"hf://team/tiny@{REVISION}"
    plane.settle()
    assert plane.tell().serves


def test_how_much_of_it_is_there_is_told_in_tenths() -> None:
    plane = DataPlane(deployment(spec=HUGGING_FACE), facts=None)
    plane.run()
    report = plane.report()
    assert report is not None
    plane.more = {"report": report.model_copy(update={"fetched": Fetched(done=5 << 29, total=10 << 29)})}
    told = plane.tell().condition(ConditionType.PROGRESSING)
    assert told and (told.status, told.reason) == ("True", Reason.INSPECTING_MODEL)
    assert told.message == "the model is being fetched to the directory's node: 50% of 5.00 GiB are there"


def test_how_much_of_the_files_is_there_is_told_while_experts_come() -> None:
    plane = DataPlane(deployment(spec=HUGGING_FACE))
    plane.settle()
    report = plane.report()
    assert report is not None
    progress = report.progress.model_copy(update={"copied": 3, "total": 8, "settled": False})
    fetched = Fetched(done=1 << 29, total=5 << 29)
    plane.more = {"report": report.model_copy(update={"progress": progress, "fetched": fetched})}
    told = plane.tell().condition(ConditionType.PROGRESSING)
    assert told is not None
    assert told.message.endswith("; files of the model are being fetched: 20% of 2.50 GiB are there"), told.message


def test_what_is_in_the_way_is_told_with_the_field() -> None:
    plane = DataPlane(deployment(spec=HUGGING_FACE), facts=None)
    plane.problem = ModelProblem(reason="AccessDenied", message="huggingFace.repo team/tiny is gated, and so on")
    plane.run()
    told = plane.tell().condition(ConditionType.MODEL_VALID)
    assert told and (told.status, told.reason) == ("False", Reason.ACCESS_DENIED)
    assert told.message.startswith("huggingFace.repo team/tiny")
