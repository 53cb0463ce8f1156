"""How many slots the memory of shards holds: the default of GPUs, what is shown, and what is refused with its sum."""

from typing import Any

import pytest
from data_plane import DataPlane, deployment
from intents import shards, slots
from kube_ray_objects import kube_ray_deployment
from moe_facts import FACTS

from moe_contract.report import DirectoryReport
from moe_operator.api import ConditionType, Reason
from moe_operator.api.status import MemoryStatus
from moe_operator.reconcile.intent import Step

GIB = 1 << 30
# 2 layers of 8 experts, each of 1 GiB but for the pages that its matrices begin on.
LARGE = FACTS.model_copy(update={"bytes_per_expert": GIB - 8192})


class Devices(DataPlane):
    """A data plane whose shards tell what they compute on."""

    device: str = "cuda"
    memory: int = 0

    def report(self) -> DirectoryReport | None:
        report = super().report()
        if report is None:
            return None
        told = {"device": self.device, "memory": self.memory}
        return report.model_copy(
            update={
                "shards": tuple(
                    shard if shard.phase == "Starting" else shard.model_copy(update=told) for shard in report.shards
                )
            }
        )


def devices(memory: float, device: str = "cuda", facts: Any = LARGE, **experts: Any) -> Devices:
    plane = Devices(deployment(**experts), facts=facts)
    plane.device, plane.memory = device, int(memory * GIB)
    return plane


GPU = {"gpus": 1}


@pytest.mark.parametrize(
    ("memory", "resources", "copies", "expected"),
    [
        (20, GPU, 1, 7),  # 18 GiB, less a block that may be empty and 2 spare buffers: 15 experts, 7 per layer
        (40, {"gpus": 0.5}, 1, 7),
        (100, GPU, 1, 8),  # no more than there are experts
        (20, {}, 1, 4),  # who else is on that GPU is not known: what the copies need
        (100, GPU, 2, 8),
    ],
)
def test_slots_are_what_the_part_of_a_gpu_holds(memory: int, resources: Any, copies: int, expected: int) -> None:
    plane = devices(memory, shards=2, copies={"min": copies}, resources=resources)
    plane.starting = frozenset({0, 1})
    plane.run()
    first = plane.run()
    if resources:
        assert (first.target.revision, shards(first), first.target.slots_per_shard) == (0, [0, 1], 0)
    plane.starting = frozenset()
    plane.settle()
    assert slots(plane.decide()) == (expected, expected)
    assert plane.tell().slots_per_shard == expected


def test_a_pod_has_a_whole_gpu_whatever_part_is_asked_for() -> None:
    plane = Devices(kube_ray_deployment(shards=2, resources={"gpus": 0.5}), facts=LARGE)
    plane.device, plane.memory = "cuda", 20 * GIB
    plane.settle()
    assert slots(plane.decide()) == (7, 7)


def test_slots_stay_when_another_device_is_seen() -> None:
    plane = devices(20, shards=2, resources=GPU)
    plane.settle()
    plane.memory = 100 * GIB
    plane.settle()
    assert plane.tell().slots_per_shard == 7


def test_what_is_foretold_is_shown() -> None:
    plane = devices(20, shards=2, resources=GPU)
    plane.settle()
    assert plane.tell().memory == MemoryStatus(needed=16 * GIB, usable=18 * GIB - (1 << 28), slots=7)
    plane.device = "cpu"  # of a machine's memory an equal part for each shard on it
    assert plane.tell().memory == MemoryStatus(needed=16 * GIB, usable=9 * GIB, slots=3)
    plane.memory = 0  # of an earlier release
    assert plane.tell().memory == MemoryStatus(needed=16 * GIB)


REFUSED = [
    # GiB of the device, spec.experts, what is said
    (
        10,
        {"shards": 2, "resources": GPU},
        "spec.experts.shards is 2: 8 experts x 1 (copies.min) need 8 slots of 1024.0 MiB in each of 2 MoE layers, and "
        "a shard has 8.8 GiB for them (1 of a GPU of 10.0 GiB): 3 slots per layer fit, so use at least 3 shards",
    ),
    (
        4,
        {"shards": 2, "resources": GPU},
        "spec.experts: 2 MoE layers x 1 slots x 1024.0 MiB take 4.0 GiB of a shard, which has 3.3 GiB for them (1 of a "
        "GPU of 4.0 GiB): no number of shards of this size holds the model: give each more memory",
    ),
    (
        20,
        {"shards": 2, "slotsPerShard": 8, "resources": GPU},
        "spec.experts.slotsPerShard is 8: 2 MoE layers x 8 slots x 1024.0 MiB take 18.0 GiB of a shard, which has "
        "17.8 GiB for them (1 of a GPU of 20.0 GiB): 7 slots per layer fit, so use at least 2 shards",
    ),
]


@pytest.mark.parametrize(("memory", "experts", "said"), REFUSED)
def test_what_cannot_fit_is_refused_with_the_sum(memory: int, experts: Any, said: str) -> None:
    plane = devices(memory, **experts)
    plane.settle()
    degraded = plane.tell().condition(ConditionType.DEGRADED)
    assert degraded and (degraded.reason, degraded.message) == (Reason.INSUFFICIENT_MEMORY, said)
    assert plane.decide().target.placement is None
    plane.memory = 100 * GIB
    plane.settle()
    assert plane.tell().condition(ConditionType.DEGRADED).status == "False"


def test_a_machine_is_asked_for_what_must_be_on_it() -> None:
    """Slots beyond those that the copies need take nothing there, until somebody wants them filled."""
    plane = devices(24, "cpu", shards=2, slotsPerShard=8)
    plane.settle()
    assert plane.tell().condition(ConditionType.DEGRADED).status == "False"
    plane = devices(16, "cpu", shards=2)
    plane.settle()
    degraded = plane.tell().condition(ConditionType.DEGRADED)
    assert degraded and degraded.reason == Reason.INSUFFICIENT_MEMORY
    assert "which has 7.2 GiB for them (a machine of 16.0 GiB with 2 of the shards on it)" in degraded.message


def test_an_autoscaler_wakes_with_one_whatever_the_memory() -> None:
    plane = devices(10, shards=3, resources=GPU)
    plane.settle()
    status = plane.tell()
    plane.forget()
    plane.change(shards=0, resources=GPU)
    plane.settle()
    plane.change(shards=1, resources=GPU)
    plane.moe = plane.moe.model_copy(update={"status": status})
    plane.settle()
    assert slots(plane.decide()) == (3, 3, 3)


def test_a_new_model_that_does_not_fit_takes_nothing_down() -> None:
    plane = devices(20, facts=FACTS, shards=2, resources=GPU)
    plane.settle()
    plane.candidate = LARGE.model_copy(update={"digest": "sha256:2", "bytes_per_expert": 20 * GIB})
    plane.change(shards=2, resources=GPU, spec={"model": {"source": {"path": "models/large"}}})
    plane.run()
    intent = plane.decide()
    assert intent.change and intent.change.problem and intent.change.problem.reason is Reason.INSUFFICIENT_MEMORY
    assert intent.problem == intent.change.problem
    assert intent.step is Step.RUN
