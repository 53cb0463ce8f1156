"""FP8 rows are in force where they can be, and a replica says why they are not."""

from __future__ import annotations

import pytest

from moe_contract.report import NOT_FP8
from moe_serving.fp8 import switch as module
from moe_serving.fp8.switch import WireSwitch


def test_it_comes_and_goes() -> None:
    told: list[bool] = []
    switch = WireSwitch(told.append)
    assert switch.in_force == "Model"
    for wire in ("FP8", "Model"):
        switch.configure(wire)
        assert (switch.in_force, switch.problem) == (wire, None)
    assert told == [True, False]


def test_verify_refuses_it() -> None:
    told: list[bool] = []
    switch = WireSwitch(told.append, verify=True)
    switch.configure("FP8")
    assert switch.problem == (
        f"{NOT_FP8}: verify compares each layer with the checkpoint bit for bit; take verify or wire FP8 away"
    )
    assert (told, switch.in_force) == ([False], "Model")
    switch.configure("Model")
    assert switch.problem is None


def test_a_device_that_cannot_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "why_not", lambda device: f"device {device} has no e4m3: not implemented")
    told: list[bool] = []
    switch = WireSwitch(told.append)
    switch.configure("FP8")
    assert switch.problem == f"{NOT_FP8}: device cpu has no e4m3: not implemented; set wire to Model"
    assert (told, switch.in_force) == ([False], "Model")
