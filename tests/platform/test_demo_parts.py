"""Which parts of the demo run, and whom the last one kills."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from moe_contract.report import DirectoryReport, Progress, ShardReport
from moe_dev.demo_loss import _kill, _returned
from moe_dev.demo_parts import PartsError, chosen_parts
from moe_dev.demo_run import DemoError


@pytest.mark.parametrize(
    ("text", "parts"),
    [("", [1, 3]), (" ", [1, 3]), ("3", [3]), ("3,1", [1, 3]), ("3 1", [1, 3]), ("31", [1, 3]), ("1,1", [1])],
)
def test_parts_are_asked_for_by_number(text: str, parts: list[int]) -> None:
    assert chosen_parts(text) == parts


@pytest.mark.parametrize("text", ["4", "0", "all", "-1", "1.3", "²"])
def test_what_is_no_part_is_told_with_those_that_there_are(text: str) -> None:
    with pytest.raises(PartsError, match=r"name some of 1: from kubectl apply .* 3: a shard is killed .* DEMO_PARTS=3"):
        chosen_parts(text)


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
