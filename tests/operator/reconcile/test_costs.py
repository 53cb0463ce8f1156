"""What a deployment costs, and what its policy saves."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from data_plane import NOW, DataPlane, deployment
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_contract.report import EpochFigures, Pace, Traffic
from moe_operator.api.status import CostStatus
from moe_operator.reconcile.costs import accelerators, next_cost
from moe_operator.telemetry.metrics import Metrics

LAYERS = 2


def plane(price: str = "2.50", attention: dict[str, Any] | None = None, **experts: Any) -> DataPlane:
    spec: dict[str, Any] = {"cost": {"currency": "EUR", "pricePerAcceleratorHour": price}}
    if attention:
        spec["attention"] = attention
    made = DataPlane(deployment(spec=spec, **experts))
    made.settle()
    return made


def traffic(rows: int, made: DataPlane) -> Traffic:
    """So many tokens through all layers; one took 50 ms."""
    pace = Pace(rows=8, tokens=100, lower=0.04, median=0.05, upper=0.06)
    figures = EpochFigures(
        term=1, revision=1, epoch=made.target().revision, rows=rows, pairs=0, failovers=0, fan_out=1, node_fan_out=0,
        shard_balance=1, node_balance=1, paces=(pace,),
    )  # fmt: skip
    return Traffic(layer_rows=rows * LAYERS, epochs=(figures,))


def after(made: DataPlane, seconds: float, rows: int) -> CostStatus:
    """What is told then, with so many tokens since it began."""
    made.now = NOW + timedelta(seconds=seconds)
    made.traffic = traffic(rows, made)
    made.tell()
    cost = made.moe.status.cost
    assert cost is not None
    return cost


def test_nothing_without_a_price() -> None:
    made = DataPlane(deployment())
    made.settle()
    assert made.moe.status.cost is None


def test_each_shard_counts_as_one_where_none_asks_for_gpus() -> None:
    cost = after(plane(shards=4), 60, 600)
    assert (cost.currency, cost.accelerators, cost.per_hour) == ("EUR", "4.0000", "10.00")
    # 10 tokens a second are 36,000 in an hour.
    assert (cost.tokens_per_second, cost.per_million_tokens) == ("10.0", "277.7778")
    assert cost.seconds_per_thousand_tokens == "50.0"
    assert cost.saved is None


def test_gpus_count_as_they_are_asked_for() -> None:
    half = {"resources": {"gpus": 0.1}}
    cost = after(plane("3", {"resources": {"gpus": 1}}, shards=3, **half), 60, 600)
    assert (cost.accelerators, cost.per_hour) == ("1.3000", "3.90")


def test_it_is_told_once_a_minute_and_of_a_quiet_one_seldom() -> None:
    made = plane(shards=2)
    first = after(made, 0, 0)
    assert after(made, 59, 600) == first
    busy = after(made, 60, 600)
    assert busy.tokens_per_second == "10.0"
    assert after(made, 200, 600) == busy
    quiet = after(made, 660, 600)
    assert (quiet.tokens_per_second, quiet.per_million_tokens) == ("0.0", None)
    assert quiet.seconds_per_thousand_tokens is None
    # The directory has started anew.
    assert after(made, 1320, 0).tokens_per_second == "0.0"


def test_what_a_policy_saved() -> None:
    made = plane("3.60", shards=2, autoscaling={"maxShards": 8})
    # Six shards fewer for 600 s are one hour of one shard.
    cost = after(made, 600, 60)
    assert (cost.saved_shard_seconds, cost.saved) == (3600, "3.60")
    cost = after(made, 1200, 120)
    assert (cost.saved_shard_seconds, cost.saved) == (7200, "7.20")
    # Of a long time without an operator it is not known what ran.
    cost = after(made, 1200 + 86400, 180)
    assert cost.saved_shard_seconds == 7200 + 6 * 900


def test_another_currency_begins_anew() -> None:
    made = plane("3.60", shards=2, autoscaling={"maxShards": 8})
    after(made, 600, 60)
    spec = made.moe.spec
    assert spec.cost is not None
    dollars = spec.model_copy(update={"cost": spec.cost.model_copy(update={"currency": "USD"})})
    made.moe = made.moe.model_copy(update={"spec": dollars})
    cost = after(made, 601, 60)
    assert (cost.currency, cost.saved_shard_seconds, cost.tokens_per_second) == ("USD", 0, None)


def test_what_is_not_seen_stays_as_it_was_told() -> None:
    made = plane(shards=2)
    cost = after(made, 60, 600)
    blind = replace(made.world(), runtime=replace(made.world().runtime, answers=None), now=NOW + timedelta(hours=1))
    assert not blind.runtime.is_known
    assert next_cost(blind) == cost


def test_a_report_that_is_missed_costs_no_figure() -> None:
    made = plane(shards=2)
    busy = after(made, 60, 600_000)
    made.now = NOW + timedelta(seconds=1260)
    blind = replace(made.world(), runtime=replace(made.world().runtime, report=None))
    assert blind.runtime.is_known
    assert next_cost(blind) == busy
    assert after(made, 1320, 600_000).tokens_per_second == "0.0"


def test_a_leader_whose_clock_is_behind_loses_no_savings() -> None:
    made = plane("3.60", shards=2, autoscaling={"maxShards": 8})
    cost = after(made, 600, 60)
    assert after(made, 599, 60) == cost
    assert after(made, 1200, 120).saved_shard_seconds == 7200


def test_on_kube_ray_pods_have_whole_gpus_and_spare_ones_too() -> None:
    made = plane(shards=3)
    runtime = {"kubeRay": {"image": "engine:1", "expertWorkers": {"spares": 2}}}
    spec = {"runtime": runtime, "attention": {"resources": {"gpus": 0.5}}}
    moe = deployment(spec=spec, shards=3, resources={"gpus": 0.1})
    count, of_shard = accelerators(replace(made.world(), moe=moe))
    assert (count, of_shard) == (3 + 2 + 1, 1)


@settings(max_examples=20)
@given(st.lists(st.integers(60, 900), min_size=1, max_size=20))
def test_savings_never_drift(steps: list[int]) -> None:
    made = plane("0.0001", shards=2, autoscaling={"maxShards": 3})
    at = 0
    for number, seconds in enumerate(steps):
        at += seconds
        cost = after(made, at, 60 * (number + 1))
        assert cost.saved_shard_seconds == at


def test_figures_are_metrics() -> None:
    made = plane("3.60", shards=2, autoscaling={"maxShards": 8})
    after(made, 600, 60)
    metrics = Metrics()
    metrics.conditions({"team/tiny": made.moe.status})
    text = metrics.exposition().decode()
    labels = 'currency="EUR",figure="{}",name="tiny",namespace="team"'
    assert f"moe_operator_costs{{{labels.format('saved')}}} 3.6" in text
    assert f"moe_operator_costs{{{labels.format('per_hour')}}} 7.2" in text


@pytest.mark.parametrize("text", ["", "2,50", "-1", "1.00001", "1234567", "2.", "٢"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(Exception, match=r"price|at most"):
        plane(text)
