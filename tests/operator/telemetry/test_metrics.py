"""What is counted is what is exposed."""

from moe_operator.api import Condition, ConditionType, MoEDeploymentStatus, Reason
from moe_operator.telemetry.metrics import Metrics, ReconcileResult


def exposed(metrics: Metrics) -> dict[str, float]:
    lines = metrics.exposition().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def status(reason: Reason) -> MoEDeploymentStatus:
    condition = Condition(
        type=ConditionType.READY,
        status="False",
        observed_generation=1,
        last_transition_time="2026-01-02T03:04:05Z",
        reason=reason,
        message="",
    )
    return MoEDeploymentStatus(conditions=(condition,))


def test_counters_start_at_zero_so_that_a_first_failure_is_an_increase() -> None:
    values = exposed(Metrics())
    for result in ReconcileResult:
        assert values[f'moe_operator_reconciles_total{{result="{result.value}"}}'] == 0
    assert values['moe_operator_serve_writes_total{result="failed"}'] == 0
    assert values["moe_operator_cleanups_abandoned_total"] == 0


def test_reconciles_writes_and_cleanups_are_counted() -> None:
    metrics = Metrics()
    with metrics.reconcile_timed():
        metrics.reconcile_ended(ReconcileResult.ERROR)
    metrics.serve_written(ok=True)
    metrics.serve_written(ok=False)
    metrics.cleanup_abandoned()
    metrics.queue_depth(5)
    metrics.leading(True)
    values = exposed(metrics)
    assert values['moe_operator_reconciles_total{result="error"}'] == 1
    assert values["moe_operator_reconcile_seconds_count"] == 1
    assert values['moe_operator_serve_writes_total{result="ok"}'] == 1
    assert values['moe_operator_serve_writes_total{result="failed"}'] == 1
    assert values["moe_operator_cleanups_abandoned_total"] == 1
    assert (values["moe_operator_queue_depth"], values["moe_operator_leader"]) == (5, 1)


def test_conditions_are_those_of_now() -> None:
    metrics = Metrics()
    metrics.conditions({"a/1": status(Reason.RAY_UNREACHABLE), "a/2": status(Reason.RAY_UNREACHABLE)})
    metrics.conditions({"a/1": status(Reason.RAY_UNREACHABLE), "a/3": status(Reason.ASLEEP)})
    found = {name: value for name, value in exposed(metrics).items() if name.startswith("moe_operator_conditions")}
    assert found == {
        'moe_operator_conditions{condition="Ready",reason="RayUnreachable",status="False"}': 1,
        'moe_operator_conditions{condition="Ready",reason="Asleep",status="False"}': 1,
    }
