"""What a replica does with a calibration: nothing is left out before it is read, nor where it does not allow it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calibrated import written
from waiting import wait_until

from moe_contract.applications import RoutingConfig
from moe_contract.model import ModelFacts
from moe_contract.report import NOT_ADAPTIVE
from moe_serving.adaptive import switch as module
from moe_serving.adaptive.switch import AdaptiveSwitch
from moe_serving.adaptive.thinning import Thinning

FACTS = ModelFacts(
    digest="sha256:01", architecture="Mixtral", layers=3, experts=16, top_k=2, bytes_per_expert=1024, dtype="float32",
    max_context=64,
)  # fmt: skip


class Client:
    def __init__(self) -> None:
        self.thinning: Thinning | None = None

    def thin(self, thinning: Thinning | None) -> None:
        self.thinning = thinning


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def switch(client: Client) -> Iterator[AdaptiveSwitch]:
    switch = AdaptiveSwitch(FACTS, client.thin)
    yield switch
    switch.close()


def asked(path: Path, **fields: Any) -> RoutingConfig:
    return RoutingConfig(**({"calibration": str(path), "pairs_saved": 10.0} | fields))


def test_it_is_in_force_once_it_is_read_and_no_more_when_it_is_taken_away(
    tmp_path: Path, client: Client, switch: AdaptiveSwitch
) -> None:
    path = written(tmp_path / "c.json", FACTS)
    switch.configure(asked(path))
    wait_until(lambda: client.thinning is not None, "adaptive routing")
    assert switch.problem is None
    assert switch.report is not None
    assert (switch.report.pairs_saved, switch.report.loss_increase, switch.report.held_out_tokens) == (10, 0.001, 8000)
    in_force = client.thinning
    switch.configure(asked(path))
    assert client.thinning is in_force
    switch.configure(None)
    assert (client.thinning, switch.report, switch.problem) == (None, None, None)


def test_what_is_not_allowed_is_told_and_not_done(tmp_path: Path, client: Client, switch: AdaptiveSwitch) -> None:
    path = written(tmp_path / "c.json", FACTS)
    switch.configure(asked(path, pairs_saved=25))
    wait_until(lambda: switch.problem is not None, "what is wrong")
    assert (switch.problem or "").startswith(f"{NOT_ADAPTIVE}: maxLossIncrease 0.005 does not allow pairsSaved 25")
    assert (client.thinning, switch.report) == (None, None)
    switch.configure(asked(path, pairs_saved=25, max_loss_increase=0.05))
    wait_until(lambda: client.thinning is not None, "adaptive routing")
    assert switch.problem is None


def test_a_file_that_comes_later_is_found(
    tmp_path: Path, client: Client, switch: AdaptiveSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.05)
    switch.configure(asked(tmp_path / "c.json"))
    wait_until(lambda: switch.problem is not None, "what is wrong")
    assert "No such file or directory" in (switch.problem or "")
    (tmp_path / "part").write_text("{")
    (tmp_path / "part").rename(tmp_path / "c.json")
    wait_until(lambda: "none that this release can use" in (switch.problem or ""), "the other problem")
    written(tmp_path / "part", FACTS).rename(tmp_path / "c.json")
    wait_until(lambda: client.thinning is not None, "adaptive routing")
    assert switch.problem is None


def test_verify_mode_refuses_it(tmp_path: Path, client: Client) -> None:
    switch = AdaptiveSwitch(FACTS, client.thin, verify=True)
    switch.configure(asked(written(tmp_path / "c.json", FACTS)))
    wait_until(lambda: switch.problem is not None, "what is wrong")
    switch.close()
    assert client.thinning is None


def test_a_file_that_is_read_too_late_changes_nothing(
    tmp_path: Path, client: Client, switch: AdaptiveSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one on a file system that stood still."""
    path = written(tmp_path / "c.json", FACTS)
    read = module.read_calibration

    def slowly(name: str) -> Any:
        switch.configure(None)
        done.append(name)
        return read(name)

    done: list[str] = []
    monkeypatch.setattr(module, "read_calibration", slowly)
    switch.configure(asked(path))
    wait_until(lambda: bool(done), "the file to be read")
    switch.configure(None)
    assert client.thinning is None
