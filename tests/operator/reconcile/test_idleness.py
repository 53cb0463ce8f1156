"""When a deployment is put to sleep: never while it is asked, or on its way; and whoever scales has the last word."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from data_plane import deployment
from moe_facts import FACTS

from moe_contract.report import AttentionReport, DirectoryReport, Progress, Traffic
from moe_operator.api import Condition, ConditionType, MoEDeployment, MoEDeploymentStatus
from moe_operator.api.status import TIME_FORMAT, LoadStatus, SleepStatus
from moe_operator.reconcile.history import History
from moe_operator.reconcile.idleness import is_due, next_sleep, sleeps

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
KUBE_RAY = {"kubeRay": {"image": "moe-serving:0.1.0"}}


def moe(shards: int = 2, **spec: Any) -> MoEDeployment:
    return deployment(shards=shards, spec={"runtime": KUBE_RAY, "sleep": {"afterIdle": "30m"}, **spec})


def ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).strftime(TIME_FORMAT)


def condition(kind: str, status: Any, since: float, reason: str) -> Condition:
    return Condition(
        type=kind, status=status, observed_generation=1, last_transition_time=ago(since), reason=reason, message=""
    )


def told(
    ready: float = 60, settled: float = 60, load: float | None = None, *, serves: bool = True, moving: bool = False
) -> MoEDeploymentStatus:
    """Minutes ago: since when it is Ready, and settled; and when the load was told."""
    return MoEDeploymentStatus(
        load=None if load is None else LoadStatus(time=ago(load), layer_rows=600, shards="5000 5000"),
        conditions=(
            condition(ConditionType.READY, "True" if serves else "False", ready, "Available"),
            condition(ConditionType.PROGRESSING, "True" if moving else "False", settled, "Settled"),
        ),
    )


def report(layer_rows: int = 600, running: int = 0, waiting: int = 0) -> DirectoryReport:
    replica = AttentionReport(replica="a", ready=True, epoch=1, running=running, waiting=waiting)
    return DirectoryReport(
        term=1, revision=1, epoch=1, model=FACTS, attention=(replica,), traffic=Traffic(layer_rows=layer_rows),
        progress=Progress(copied=0, total=0, settled=True),
    )  # fmt: skip


CASES: dict[str, tuple[bool, dict[str, Any]]] = {
    "nobody has asked for half an hour": (True, {"told": told(load=31)}),
    "nobody has ever asked": (True, {"told": told(), "report": report(0)}),
    "somebody asked 29 minutes ago": (False, {"told": told(load=29)}),
    "it serves only since 29 minutes": (False, {"told": told(ready=29, load=60)}),
    "somebody scaled it 29 minutes ago": (False, {"told": told(settled=29, load=60)}),
    "requests came since the load was told": (False, {"told": told(load=31), "report": report(601)}),
    "requests came and no load was told": (False, {"told": told(), "report": report(600)}),
    "a request runs": (False, {"told": told(load=31), "report": report(running=1)}),
    "a request waits": (False, {"told": told(load=31), "report": report(waiting=1)}),
    "a directory that has restarted has counted nothing": (True, {"told": told(load=31), "report": report(0)}),
    "the directory does not tell": (False, {"told": told(load=31), "report": None}),
    "it does not serve": (False, {"told": told(load=31, serves=False)}),
    "something is under way": (False, {"told": told(load=31, moving=True)}),
    "it sleeps already": (False, {"moe": moe(shards=0), "told": told(load=31)}),
    "it is suspended": (False, {"moe": moe(suspend=True), "told": told(load=31)}),
    "nobody wants it": (False, {"moe": moe(sleep=None), "told": told(load=31)}),
    "its route is Serve's": (
        False,
        {"moe": deployment(spec={"sleep": {"afterIdle": "30m"}}), "told": told(load=31)},
    ),
}


@pytest.mark.parametrize(("due", "case"), CASES.values(), ids=CASES)
def test_when_it_is_due(due: bool, case: dict[str, Any]) -> None:
    case = {"moe": moe(), "report": report(), "now": NOW} | case
    assert is_due(**case) is due


def test_what_it_is_woken_to_is_what_it_was() -> None:
    assert next_sleep(moe(shards=4)) == SleepStatus(shards=4)
    asleep = moe(shards=0).model_copy(update={"status": MoEDeploymentStatus(sleep=SleepStatus(shards=4))})
    assert next_sleep(asleep) == SleepStatus(shards=4)
    assert next_sleep(moe(sleep=None)) is None


@pytest.mark.parametrize(
    ("of", "held", "said"),
    [
        (moe(), True, "True AsExpected"),
        (moe(), False, "True NotHeld"),
        (deployment(spec={"sleep": {"afterIdle": "30m"}}), False, "False RouteOfServe"),
        (moe(sleep=None), True, ""),
    ],
)
def test_whether_it_happens_is_told(of: MoEDeployment, held: bool, said: str) -> None:
    found = list(sleeps(of, History(of.status, 1, NOW), held))
    assert " ".join(f"{each.status} {each.reason}" for each in found) == said
