"""Which Events a change of status makes."""

from moe_operator.api import Condition, MoEDeploymentStatus
from moe_operator.reconcile.transitions import transitions


def status(**conditions: str) -> MoEDeploymentStatus:
    """``Ready="True Available"`` and the like; the message is the reason in small letters."""
    return MoEDeploymentStatus(
        conditions=tuple(
            Condition(
                type=kind,
                status=value.split()[0],
                observed_generation=1,
                last_transition_time="2026-01-01T00:00:00Z",
                reason=value.split()[1],
                message=value.split()[1].lower(),
            )
            for kind, value in conditions.items()
        )
    )


def told(before: MoEDeploymentStatus, after: MoEDeploymentStatus) -> list[str]:
    return [f"{note.type} {note.reason}: {note.note}" for note in transitions(before, after)]


NONE = MoEDeploymentStatus()
STARTING = status(Ready="False DeployingCore", Progressing="True DeployingCore", Degraded="False AsExpected")
UP = status(Ready="True Available", Progressing="False Settled", Degraded="False AsExpected")
UNREACHABLE = status(
    Ready="False RayUnreachable",
    Progressing="False RayUnreachable",
    Degraded="True RayUnreachable",
    RuntimeReachable="False RayUnreachable",
)


def test_events() -> None:
    assert told(NONE, STARTING) == ["Normal DeployingCore: deployingcore"]
    assert told(NONE, UNREACHABLE) == ["Warning RayUnreachable: rayunreachable"]
    assert told(STARTING, UP) == ["Normal Available: available", "Normal Settled: settled"]
    assert told(UP, UNREACHABLE) == ["Warning RayUnreachable: rayunreachable"]
    assert told(UP, UP) == []


def test_a_drain_is_told_of_from_its_beginning() -> None:
    assert told(UP, status(Drained="False Draining")) == ["Normal Draining: draining"]
    assert told(status(Drained="False Draining"), status(Drained="True Drained")) == ["Normal Drained: drained"]
    assert told(UP, status(Drained="False DrainRefused")) == ["Warning DrainRefused: drainrefused"]
    assert told(UP, status(Drained="False NoSuchShard")) == ["Warning NoSuchShard: nosuchshard"]


def test_a_change_of_the_message_alone_is_no_transition() -> None:
    conditions = tuple(c.model_copy(update={"message": "other"}) for c in UP.conditions)
    assert told(UP, UP.model_copy(update={"conditions": conditions})) == []
