"""The example in docs/placement.md runs as it stands there, and prices surges; its commands are commands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from moe_dev.paths import CLONE
from moe_placement.cli import main
from moe_placement.cli.options import parser


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those on the traces that are here; the others are read."""
    pytest.importorskip("matplotlib")
    text = (CLONE / "docs" / "placement.md").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^\$ moe-placement (.*)$", text, re.MULTILINE)]
    assert {command[0] for command in commands} == {"plan", "simulate", "compare", "convert"}
    (tmp_path / "traces").symlink_to(CLONE / "traces")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        parser().parse_args(command)
        if "traces/wide-64x8.npz" in command:
            assert main(command) == 0


@pytest.mark.slow
def test_the_example_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (CLONE / "docs" / "placement.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, again, decision = done.stdout.splitlines()
    assert first.startswith("A first placement of 32 experts x 2 layers on 4 shards")
    assert "copies" in again
    for explained, windows in ((first, 15), (again, 31)):  # 4,000 tokens each, in windows of 256
        assert f"Surges are priced, by the risk among the limits, as seen in {windows} windows of traffic." in explained
    assert decision.startswith("Decision(accepted=")
