"""What a long step says about itself."""

import re
from pathlib import Path

import pytest

from moe_dev import progress
from moe_dev.processes import Guarded

SECONDS = 20.0


def test_a_long_step_says_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.05)
    process = Guarded.start("sleeper", ["sleep", "600"], tmp_path / "log")
    said: list[str] = []

    def not_said(pattern: str) -> str | None:
        said.append(capsys.readouterr().out)
        return None if re.search(pattern, "".join(said)) else pattern

    try:
        with progress.step("starting it"):
            process.wait_until(
                "its word", lambda: not_said(r"… still starting it \(\d+ s, waiting for its word\)"), SECONDS
            )
        with progress.step("going on"), progress.waiting("one"), progress.waiting("another"):
            process.wait_until("the end", lambda: not_said("waiting for one and another and the end"), SECONDS)
    finally:
        process.stop()
    assert progress._waits == []
