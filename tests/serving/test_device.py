"""Which device a process takes, by what it was told and what it sees, and what memory that has."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from moe_contract.applications import Device
from moe_serving.device import memory_of, resolve_device


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


def test_memory_is_that_of_the_gpu_or_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = {0: 80 << 30, 1: 24 << 30}
    properties = lambda device: SimpleNamespace(total_memory=gpus[device.index])  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    assert memory_of(torch.device("cuda", 1)) == 24 << 30
    assert 0 < memory_of(torch.device("cpu")) <= psutil.virtual_memory().total
