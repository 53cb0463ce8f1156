"""Which device a process takes, by what it was told and what it sees."""

import pytest
import torch

from moe_contract.applications import Device
from moe_serving.device import resolve_device


@pytest.mark.parametrize(
    ("device", "visible", "number", "taken"),
    [
        ("cpu", 4, 1, "cpu"),
        ("auto", 0, 1, "cpu"),
        ("auto", 1, 5, "cuda:0"),
        ("auto", 4, 2, "cuda:2"),
        ("auto", 4, 5, "cuda:1"),
        ("cuda", 2, 1, "cuda:1"),
        ("cuda", 0, 3, "cuda:0"),
    ],
)
def test_gpus_in_sight_are_taken_in_turn(
    monkeypatch: pytest.MonkeyPatch, device: Device, visible: int, number: int, taken: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert str(resolve_device(device, number)) == taken
