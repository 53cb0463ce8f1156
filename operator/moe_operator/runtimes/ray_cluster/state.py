"""What Serve tells of one deployment, in the port's words. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from moe_contract.serve.merge import Change, Config, owned
from moe_contract.serve.state import ServeState
from moe_operator.api import MoEDeployment, Reason
from moe_operator.finding import Finding
from moe_operator.release import serving_requirement
from moe_operator.runtimes.port import RuntimeState, Told, core_name
from moe_operator.runtimes.ray_cluster.basis import Basis
from moe_operator.runtimes.serve.applications import application
from moe_operator.runtimes.serve.problems import Whereabouts
from moe_operator.runtimes.serve.told import read_told

ABSENT_CERTAIN_SECONDS = 5.0


def runtime_state(
    serve: ServeState,
    moe: MoEDeployment,
    *,
    absent_seconds: float = 0.0,
    remembered: Change | None = None,
    edited: Collection[str] = (),
) -> RuntimeState:
    """What ``serve`` tells of a deployment.

    ``absent_seconds``: for how long already it says that no Serve runs. ``remembered``: what this process wrote last;
    None after a restart. ``edited``: applications that are there as somebody else changed them since.
    """
    core, url = core_name(moe), moe.ray_cluster.dashboard_url
    there, where = owned(serve, core), whereabouts(url)
    return RuntimeState(
        answers=Finding(Reason.REACHABLE, f"Ray answers at {url}"),
        applications={name: application(found, where) for name, found in there.items()},
        told=_told(moe, {n: a.config for n, a in there.items() if a.config is not None}, remembered, edited),
        nothing_is_left=is_certainly_empty(serve, core, absent_seconds),
        basis=Basis.of(serve, core),
    )


def is_certainly_empty(serve: ServeState, core: str, absent_seconds: float) -> bool:
    """Whether nothing of the deployment exists, in a Serve that is known to run, or has been absent for some seconds.

    Ray says that it runs no Serve also when it does not find its controller for a moment. Whatever is let go then stays
    for ever.
    """
    return not owned(serve, core) and bool(serve.controller or absent_seconds >= ABSENT_CERTAIN_SECONDS)


def _told(
    moe: MoEDeployment, configs: dict[str, Config], remembered: Change | None, edited: Collection[str]
) -> Mapping[str, Told]:
    """As Serve has it, else as this process remembers it.

    The memory bridges a loss: applications that a foreign writer, or a restart of Ray, removed come back as they were
    instead of from nothing. It is believed only while it is about the same model. What somebody else edited is not
    believed, lest a placement, or a model, that nobody asked for were decided from.
    """
    core = core_name(moe)
    if remembered is None:
        return {name: read_told(config) for name, config in configs.items()}
    before = {application["name"]: application for application in remembered.applications}
    configs |= {name: before[name] for name in before.keys() & set(edited)}
    told = {name: read_told(config) for name, config in configs.items()}
    if core in told:
        return told
    lost = {name: read_told(config) for name, config in before.items()}
    return {**lost, **told} if all(each.model == moe.model_args for each in lost.values()) else told


def whereabouts(url: str) -> Whereabouts:
    """Of applications on a Ray cluster that somebody else set up."""
    return Whereabouts(
        f"the Ray cluster at {url}",
        f"install it on all its nodes, pip install '{serving_requirement()}'; it is tried again by itself",
    )
