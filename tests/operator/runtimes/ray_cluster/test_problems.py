"""What is wrong, in Serve's words: why an application does not run, and whose a name or a route is."""

import pytest
from data_plane import deployment

from moe_contract.applications import application_name
from moe_contract.serve.merge import Conflict
from moe_contract.serve.state import Application
from moe_operator.api import Reason
from moe_operator.runtimes.ray_cluster.problems import in_the_way
from moe_operator.runtimes.ray_cluster.state import whereabouts
from moe_operator.runtimes.serve.problems import failure, unhealth

PYTHON_TRACE = (
    "RayTaskError: \x1b[36mray::build()\x1b[39m (pid=77, ip=127.0.0.1)\nModuleNotFoundError: No module named '{}'\n"
)


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        (PYTHON_TRACE.format("moe_serving"), Reason.PACKAGE_MISSING, "pip install 'moe-operator[serving]"),
        (PYTHON_TRACE.format("torch"), Reason.PACKAGE_MISSING, "no Python package 'torch'"),
        ("Traceback:\nValueError: bad 0x7f00 (pid=9)\n", Reason.DEPLOY_FAILED, "ValueError: bad … (…)"),
        ("", Reason.DEPLOY_FAILED, "it gave no reason"),
    ],
)
def test_an_application_that_serve_cannot_start(text: str, reason: Reason, says: str) -> None:
    problem = failure(Application("core", "DEPLOY_FAILED", text), whereabouts("http://ray:8265"))
    assert problem.reason == reason
    assert says in problem.message


def test_an_application_that_serve_calls_unhealthy() -> None:
    said = {"directory": "A replica's health check failed (pid=7)."}
    problem = unhealth(Application("core", "UNHEALTHY", problems=said))
    assert problem.reason == Reason.UNHEALTHY
    assert problem.message == ("Serve calls core unhealthy, and restarts it: A replica's health check failed (…).")


@pytest.mark.parametrize(
    ("conflict", "reason", "says"),
    [
        (
            Conflict("/x", "shop"),
            Reason.ROUTE_PREFIX_TAKEN,
            "/x, which another application on this Ray cluster has: choose another",
        ),
        (Conflict("/x", "moe.other.tiny.0123abcd"), Reason.ROUTE_PREFIX_TAKEN, "/x, which another application on this"),
        (
            Conflict("/x", "moe.team.other.0123abcd"),
            Reason.ROUTE_PREFIX_TAKEN,
            "/x, which MoEDeployment team/other has",
        ),
        (Conflict(None, application_name("team", "tiny", "u-1")), Reason.NAME_CONFLICT, "Serve application 'moe."),
        (
            Conflict("/x", "moe.team.tiny.0123abcd"),
            Reason.ROUTE_PREFIX_TAKEN,
            "/x, which an earlier MoEDeployment team/tiny (or one of another Kubernetes cluster) has: choose "
            "another, or, if nobody needs it, remove moe.team.tiny.0123abcd* from Ray",
        ),
        (
            Conflict("/x/v1", "moe.other.tiny.0123abcd", "/x/v1"),
            Reason.ROUTE_PREFIX_TAKEN,
            "routePrefix is /x/v1, and a path above or below it is of another application on this Ray cluster: Serve",
        ),
        (
            Conflict("/x/v1", "moe.team.other.0123abcd", "/x/v1"),
            Reason.ROUTE_PREFIX_TAKEN,
            "routePrefix is /x/v1, and /x/v1 is a path of MoEDeployment team/other: Serve would send",
        ),
    ],
)
def test_a_conflict_on_the_ray_cluster(conflict: Conflict, reason: Reason, says: str) -> None:
    problem = in_the_way(deployment(), conflict)
    assert problem.reason == reason
    assert says in problem.message
    assert "shop" not in problem.message
    assert "other/" not in problem.message.replace("team/other", "")
