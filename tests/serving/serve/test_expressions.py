"""The chart's dashboard asks a deployment's ``/metrics`` for what is told there, and Prometheus draws it."""

from pathlib import Path

import pytest
from expressions import is_of_operator, missing, of_dashboard, of_variables
from openai import OpenAI
from plane import Plane
from prometheus import Target, scraping

WHOSE = {"namespace": "team-a", "service": "serving-moe-api"}


@pytest.fixture
def busy(plane: Plane, openai: OpenAI) -> Plane:
    """It has figures of its traffic."""
    ask(openai)
    plane.wait(lambda report: report.figures is not None, "figures of the traffic")
    return plane


def ask(openai: OpenAI) -> None:
    openai.completions.create(model="tiny", prompt="A cat and a dog", max_tokens=4)


def test_the_dashboard_asks_a_deployment_for_what_it_tells(busy: Plane) -> None:
    status, told = busy.get("/metrics")
    assert status == 200
    of_values = [f"count by ({label}) ({series})" for series, label in of_variables()]
    assert missing([*of_dashboard(), *of_values], told, of_operator=False) == []


def test_prometheus_draws_every_panel_of_a_deployment_once(busy: Plane, openai: OpenAI, tmp_path: Path) -> None:
    # Each api tells the sum over all: two that are scraped are one deployment.
    targets = [Target(f"{busy.url}/metrics", {**WHOSE, "pod": pod}) for pod in ("api-0", "api-1")]
    with scraping(tmp_path / "prometheus", targets) as prometheus:
        prometheus.wait_scraped()
        for _ in range(3):
            ask(openai)
            prometheus.wait_scraped()
        drawn = {each: prometheus.drawn(each) for each in of_dashboard() if not is_of_operator(each)}
        assert [each for each, series in drawn.items() if not series] == []
        assert all(WHOSE.items() <= series.labels.items() for each in drawn.values() for series in each)
        (shards,) = (series for each, (series, *_) in drawn.items() if "moe_shards_wanted" in each)
        assert set(shards.figures) == {2.0}
        values = {label: prometheus.values(label, series) for series, label in of_variables()}
        assert values == {label: [value] for label, value in WHOSE.items()}
