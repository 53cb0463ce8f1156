"""What Serve tells of one deployment, in the port's words. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from moe_contract.applications import API, CORE_IMPORT_PATH, DIRECTORY, EXPERTS, DirectoryConfig, ModelArgs
from moe_contract.serve import state as serve_state
from moe_contract.serve.merge import Change, Config, owned
from moe_contract.serve.state import ServeState
from moe_operator.api import MoEDeployment, Reason
from moe_operator.finding import Finding
from moe_operator.runtimes.port import Application, ApplicationPhase, RuntimeState, Told, core_name
from moe_operator.runtimes.ray_cluster.basis import Basis
from moe_operator.runtimes.ray_cluster.problems import failure, unhealth

ABSENT_CERTAIN_SECONDS = 5.0

_PHASES = {
    "RUNNING": ApplicationPhase.RUNNING,
    "UNHEALTHY": ApplicationPhase.UNHEALTHY,
    "DEPLOY_FAILED": ApplicationPhase.FAILED,
}
"""Of Serve's words for the status of an application; all others are on their way."""


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
    there = owned(serve, core)
    return RuntimeState(
        answers=Finding(Reason.REACHABLE, f"Ray answers at {url}"),
        applications={name: _application(application, url) for name, application in there.items()},
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


def _application(found: serve_state.Application, url: str) -> Application:
    phase = _PHASES.get(found.status, ApplicationPhase.STARTING)
    problem = None
    if phase is ApplicationPhase.FAILED:
        problem = failure(found, url)
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


def _told(
    moe: MoEDeployment, configs: dict[str, Config], remembered: Change | None, edited: Collection[str]
) -> Mapping[str, Told]:
    """As Serve has it, else as this process remembers it.

    The memory bridges a loss: applications that a foreign writer, or a restart of Ray, removed come back as they were
    instead of from nothing. It is believed only while it is about the same model. What somebody else edited is not
    believed, lest a placement, or a model, that nobody asked for were planned from.
    """
    core = core_name(moe)
    if remembered is None:
        return {name: _read(config) for name, config in configs.items()}
    before = {application["name"]: application for application in remembered.applications}
    configs |= {name: before[name] for name in before.keys() & set(edited)}
    told = {name: _read(config) for name, config in configs.items()}
    if core in told:
        return told
    lost = {name: _read(config) for name, config in before.items()}
    wanted = ModelArgs(path=moe.model_path, dtype=moe.spec.model.dtype)
    return {**lost, **told} if all(each.model == wanted for each in lost.values()) else told


def _read(config: Config) -> Told:
    """Somebody else may have edited it, so that any part may be anything."""
    deployments = _by_name(config.get("deployments"))
    served_name = deployments.get(API, {}).get("served_name")
    slots = deployments.get(EXPERTS, {}).get("slots_per_shard")
    return Told(
        model=_model(_mapping(config.get("args")).get("model")),
        served_name=str(served_name) if served_name else None,
        directory=_directory(deployments.get(DIRECTORY)) if _is_core(config) else DirectoryConfig(),
        slots_per_shard=slots if isinstance(slots, int) and slots > 0 else 0,
    )


def _model(args: Any) -> ModelArgs | None:
    try:
        return ModelArgs.model_validate(args, extra="ignore")
    except ValidationError:
        return None


def _is_core(config: Config) -> bool:
    return config.get("import_path") == CORE_IMPORT_PATH


def _directory(user_config: Mapping[str, Any] | None) -> DirectoryConfig | None:
    """Fields that this release does not know are left out: another one may have written them."""
    if not user_config:
        return None
    try:
        return DirectoryConfig.model_validate(user_config, extra="ignore")
    except ValidationError:
        return None


def _by_name(deployments: Any) -> dict[str, Mapping[str, Any]]:
    """``user_config`` of each deployment; of several of one name that of the first."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry in deployments if isinstance(deployments, Sequence) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
            found.setdefault(entry["name"], _mapping(entry.get("user_config")))
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
