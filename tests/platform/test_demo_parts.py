"""Which parts of the demo run, what the table of the second says, and whom the third kills."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from moe_contract.report import DirectoryReport, Progress, ShardReport
from moe_dev.demo_loss import _kill, _returned
from moe_dev.demo_parts import PartsError, chosen_parts
from moe_dev.demo_run import DemoError
from moe_dev.demo_shift import HEAD, is_judged, rows_of
from moe_dev.demo_traffic import PYTHON, Traffic
from moe_dev.demo_view import table_lines


@pytest.mark.parametrize(
    ("text", "parts"),
    [("", [1, 2, 3]), (" ", [1, 2, 3]), ("3", [3]), ("3,1", [1, 3]), ("2 3", [2, 3]), ("12", [1, 2]), ("1,1", [1])],
)
def test_parts_are_asked_for_by_number(text: str, parts: list[int]) -> None:
    assert chosen_parts(text) == parts


@pytest.mark.parametrize("text", ["4", "0", "all", "-1", "1.3", "²"])
def test_what_is_no_part_is_told_with_those_that_there_are(text: str) -> None:
    known = r"some of 1: from kubectl apply .* 2: the placement .* 3: a shard is killed .* DEMO_PARTS=3"
    with pytest.raises(PartsError, match=known):
        chosen_parts(text)


def placement(reason: str = "Verified", **status: Any) -> dict[str, Any]:
    verified = {"type": "Verified", "status": "True", "reason": reason, "message": "fan-out 1.5 -> 1.2"}
    price = {"moves": 14, "bytes": 5500000, "seconds": "0.4"}
    return {
        "spec": {"content": {"revision": 8, "baseRevision": 6}},
        "status": {"price": price, "conditions": [verified]} | status,
    }


def test_a_placement_that_followed_is_two_rows() -> None:
    figures = {"balance": "0.8123", "fanOut": "1.5061", "nodeFanOut": "0.0"}
    told = placement(before=figures, measured=figures | {"fanOut": "1.2012"})
    rows = rows_of("Python", told, 210.4, 230.6)
    assert rows == [
        ("Python", "r6", "0.81", "1.51", "210", "", ""),
        ("Python", "r8", "0.81", "1.20", "231", "14 moves, 5.5 MB, 0.4 s", "True: Verified"),
    ]
    assert table_lines(HEAD, rows) == [
        "traffic   placement   balance   fan-out   tokens/s   price                     verified",
        "Python    r6          0.81      1.51      210",
        "Python    r8          0.81      1.20      231        14 moves, 5.5 MB, 0.4 s   True: Verified",
    ]


def test_what_was_not_counted_is_not_made_up() -> None:
    before, after = rows_of("German", placement(), 0, 0)
    assert (before[2:4], after[2:4]) == (("?", "?"), ("?", "?"))


def test_a_placement_that_is_observed_has_not_followed_yet() -> None:
    assert is_judged(placement())
    assert not is_judged(placement(reason="Observing"))
    assert not is_judged({"spec": {}, "status": {}})


def test_traffic_that_fails_ends_and_says_why() -> None:
    traffic = Traffic("http://127.0.0.1:9/v1", "tiny", PYTHON)  # where nobody listens
    with traffic.flowing():
        traffic.rate(60)
    assert isinstance(traffic.failure, openai.APIConnectionError)
    assert traffic.tokens == 0


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_only_a_replica_of_ray_is_killed(bystander: subprocess.Popen[bytes]) -> None:
    with pytest.raises(DemoError, match=rf"process {bystander.pid}, by the report shard 2, is no replica"):
        _kill(ShardReport(index=2, phase="Ready", pid=bystander.pid))
    assert bystander.poll() is None
    os.kill(bystander.pid, 0)


BACK = [
    # what the report says of the shard that was process 1, and whether it is back
    (None, False),
    ({"incarnation": "a"}, False),
    ({"incarnation": "b", "phase": "Starting"}, False),
    ({"incarnation": "b", "held": 47}, False),
    ({"incarnation": "b"}, True),
]


@pytest.mark.parametrize(("shard", "back"), BACK)
def test_a_shard_is_back_once_another_process_has_all_its_experts(shard: dict[str, Any] | None, back: bool) -> None:
    lost = ShardReport(index=1, phase="Ready", incarnation="a", held=48, wanted=48)
    now = [ShardReport(**{"index": 1, "phase": "Ready", "held": 48, "wanted": 48} | shard)] if shard else []
    progress = Progress(copied=0, total=0, settled=False)
    report = DirectoryReport(term=1, revision=1, epoch=1, shards=tuple(now), progress=progress)
    assert _returned(report, lost) == (report.shards[0] if back else None)
