"""What processes ask of their nodes: who is told that nobody has it, and which of those that run start anew."""

from typing import Any

import pytest
from aiohttp import web
from bench import Bench
from data_plane import DataPlane, deployment
from intents import desired

from moe_contract.applications import ATTENTION, EXPERTS
from moe_operator.api import ConditionType, MoEDeploymentStatus, Reason
from moe_operator.runtimes.port import ApplicationPhase, Node
from moe_operator.runtimes.ray_cluster.nodes import NODES_PATH

H100 = Node(4, frozenset({"H100"}), {"zone": "a"})
L4 = Node(1, frozenset({"L4"}), {"zone": "b"})
PLAIN = Node(labels={"zone": "c"})


def plane_of(experts: Any = None, attention: Any = None, shards: int = 2, copies: int = 1, **more: Any) -> DataPlane:
    spec = {"attention": {"resources": attention}} if attention else {}
    resources = {"resources": experts} if experts else {}
    plane = DataPlane(deployment(shards=shards, slotsPerShard=8, copies={"min": copies}, spec=spec, **resources))
    plane.more = more
    return plane


def asked_by_shards(plane: DataPlane) -> list[dict[str, Any]]:
    """What each shard shall ask for, from the next intent, which is carried out."""
    wanted = desired(plane.run())
    refs = wanted.directory.shards
    return [dict(wanted.shard_options.get(ref.index, wanted.actor_options[EXPERTS])) for ref in refs]


def test_each_role_asks_for_its_own() -> None:
    plane = plane_of({"gpus": 1, "accelerator": "H100"}, {"gpus": 0.5, "labelSelector": {"zone": "!b"}})
    options = desired(plane.run()).actor_options
    assert options[EXPERTS] == {"num_gpus": 1, "accelerator_type": "H100"}
    assert options[ATTENTION] == {"num_gpus": 0.5, "label_selector": {"zone": "!b"}}


NOBODY = [
    # experts, attention, nodes, what is said
    (
        {"gpus": 1},
        None,
        [PLAIN],
        "spec.experts.resources.gpus is 1, and no node of the Ray cluster has so many GPUs: none has any",
    ),
    (
        {"gpus": 1},
        None,
        [Node(gpus=0.5)],
        "spec.experts.resources.gpus is 1, and no node of the Ray cluster has so many GPUs: the most that one has is "
        "0.5",
    ),
    (
        {"accelerator": "A100"},
        None,
        [H100, L4],
        "spec.experts.resources.accelerator is A100, and no node of the Ray cluster has it: there are H100, L4",
    ),
    (
        {"labelSelector": {"zone": "in(d, e)"}},
        None,
        [H100, L4],
        "spec.experts.resources.labelSelector has zone: in(d, e), and no node of the Ray cluster has such a label",
    ),
    (
        None,
        {"gpus": 1, "accelerator": "H100", "labelSelector": {"zone": "b"}},
        [H100, L4],
        "spec.attention.resources: each node of the Ray cluster has some of what is asked for, and none has all of it",
    ),
    (
        {"gpus": 0.6},
        None,
        [L4, PLAIN],
        "spec.experts.resources.gpus is 0.6: of 2 shards the nodes of the Ray cluster have GPUs for 1",
    ),
    (
        {"gpus": 0.5},
        {"gpus": 0.5},
        [L4],
        "spec.experts.resources.gpus and spec.attention.resources.gpus: 2 shards x 0.5 and 1 attention replicas x 0.5 "
        "are 1.5 GPUs, and the nodes of the Ray cluster have 1",
    ),
]


@pytest.mark.parametrize(("experts", "attention", "nodes", "said"), NOBODY)
def test_what_nobody_has_is_told_by_its_field(experts: Any, attention: Any, nodes: list[Node], said: str) -> None:
    plane = plane_of(experts, attention, nodes=tuple(nodes))
    plane.run()
    degraded = plane.tell().condition(ConditionType.DEGRADED)
    assert degraded and degraded.reason == Reason.INSUFFICIENT_RESOURCES
    assert degraded.message == f"{said}; what runs goes on as it is"


@pytest.mark.parametrize(
    ("experts", "attention", "nodes"),
    [
        ({"gpus": 1}, {"gpus": 1}, [H100]),
        ({"gpus": 0.3333}, {"gpus": 0.3333}, [L4]),
        ({"gpus": 1, "accelerator": "H100", "labelSelector": {"zone": "!in(b, c)"}}, None, [H100, L4, PLAIN]),
        ({"labelSelector": {"disk": "!hdd"}}, None, [PLAIN]),
        ({"gpus": 1}, None, []),
        (None, None, [PLAIN]),
    ],
)
def test_what_somebody_has_or_nobody_knows_of_is_no_problem(experts: Any, attention: Any, nodes: list[Node]) -> None:
    plane = plane_of(experts, attention, nodes=tuple(nodes))
    plane.settle()
    degraded = plane.tell().condition(ConditionType.DEGRADED)
    assert degraded and degraded.status == "False"


def test_shards_start_anew_one_after_the_other() -> None:
    plane = plane_of({"gpus": 1}, shards=3, copies=2, nodes=(H100,))
    plane.settle()
    before, after = {"num_gpus": 1}, {"num_gpus": 0.5}
    plane.change(shards=3, slotsPerShard=8, copies={"min": 2}, resources={"gpus": 0.5})
    assert asked_by_shards(plane) == [after, before, before]
    plane.set_phase(plane.shard_names[0], ApplicationPhase.STARTING)  # the directory does not know yet
    told = plane.tell().condition(ConditionType.PROGRESSING)
    assert told and (told.status, told.reason) == ("True", Reason.RESTARTING)
    assert told.message == (
        "spec.experts.resources has changed: shards 1, 2 go on as they are until all others hold their experts"
    )
    plane.set_phase(plane.shard_names[0], ApplicationPhase.RUNNING)
    plane.empty, plane.settled = frozenset({0}), False  # it loads its experts
    assert asked_by_shards(plane) == [after, before, before]
    plane.empty, plane.settled = frozenset(), True
    assert asked_by_shards(plane) == [after, after, before]
    assert asked_by_shards(plane) == [after, after, after]
    plane.settle()
    assert plane.tell().condition(ConditionType.PROGRESSING).reason == Reason.SETTLED


def test_a_shard_that_holds_nothing_starts_anew_at_once() -> None:
    """As one that waits for a GPU that nobody had when it was asked for."""
    plane = plane_of({"gpus": 1}, shards=3)
    plane.settle()
    plane.starting, plane.empty, plane.settled = frozenset({1, 2}), frozenset({1, 2}), False
    plane.change(shards=3, slotsPerShard=8, resources={"gpus": 0.5})
    assert asked_by_shards(plane) == [{"num_gpus": 1}, {"num_gpus": 0.5}, {"num_gpus": 0.5}]


def test_nothing_that_runs_ends_for_what_nobody_has() -> None:
    plane = plane_of({"gpus": 1}, {"gpus": 1}, nodes=(H100,))
    plane.settle()
    attention = {"attention": {"resources": {"gpus": 1, "accelerator": "B200"}}}
    plane.change(shards=3, slotsPerShard=8, resources={"accelerator": "B200"}, spec=attention)
    wanted = desired(plane.run())
    assert wanted.actor_options[ATTENTION] == {"num_gpus": 1}
    assert wanted.shard_options == {0: {"num_gpus": 1}, 1: {"num_gpus": 1}}
    status = plane.tell()
    assert status.serves
    degraded = status.condition(ConditionType.DEGRADED)
    assert degraded and "spec.experts.resources.accelerator is B200" in degraded.message


async def test_nodes_are_asked_what_they_have_only_when_something_is_asked_of_them(bench: Bench) -> None:
    asked: list[str] = []

    async def counted(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return await bench.ray.answer(request)

    bench.ray.override = counted
    bench.apply()
    await bench.ready()
    assert NODES_PATH not in asked
    bench.change(experts={"shards": 2, "resources": {"gpus": 1}})
    await bench.work()
    degraded = MoEDeploymentStatus.of(bench.kube.moe()).condition(ConditionType.DEGRADED)
    assert degraded and degraded.reason == Reason.INSUFFICIENT_RESOURCES
    assert degraded.message.startswith("spec.experts.resources.gpus is 1, and no node")
    assert bench.condition("Ready") == "True Available"
