"""The chart's dashboard asks a deployment's ``/metrics`` for what is told there."""

from expressions import missing, of_dashboard, of_variables
from openai import OpenAI
from plane import Plane


def test_the_dashboard_asks_a_deployment_for_what_it_tells(plane: Plane, openai: OpenAI) -> None:
    openai.completions.create(model="tiny", prompt="A cat and a dog", max_tokens=4)
    plane.wait(lambda report: report.figures is not None, "figures of the traffic")
    status, told = plane.get("/metrics")
    assert status == 200
    assert missing([*of_dashboard(), *of_variables()], told, of_operator=False) == []
