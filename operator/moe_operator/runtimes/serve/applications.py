"""How an application is, of what Serve says of it. Pure."""

from __future__ import annotations

from moe_contract.serve import state as serve_state
from moe_operator.runtimes.port import Application, ApplicationPhase
from moe_operator.runtimes.serve.problems import Whereabouts, failure, unhealth

_PHASES = {
    "RUNNING": ApplicationPhase.RUNNING,
    "UNHEALTHY": ApplicationPhase.UNHEALTHY,
    "DEPLOY_FAILED": ApplicationPhase.FAILED,
}
"""Of Serve's words for the status of an application; all others are on their way."""


def application(found: serve_state.Application, where: Whereabouts) -> Application:
    """In the port's words; without a configuration it is on its way out."""
    phase = _PHASES.get(found.status, ApplicationPhase.STARTING)
    problem = None
    if phase is ApplicationPhase.FAILED:
        problem = failure(found, where)
    elif phase is ApplicationPhase.UNHEALTHY:
        problem = unhealth(found)
    return Application(
        name=found.name,
        phase=phase,
        problem=problem,
        route_prefix=found.route_prefix,
        leaving=found.config is None,
        moved=found.moving,
    )
