"""What Serve runs, as its GET says: the configuration submitted last and the state of each application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Fields beside ``applications`` that a GET tells and a PUT takes. A PUT without them would reset them to defaults
# (``target_capacity`` takes effect at once). Those that no GET tells (``logging_config``, ``tracing_config``) stay as
# they are when a PUT lacks them.
KEPT_OPTIONS = ("proxy_location", "http_options", "grpc_options", "target_capacity")


@dataclass(frozen=True, slots=True)
class Application:
    """One application, ours or anybody's: of a foreign one any field may be missing or of another release of Ray.

    Attributes:
        status: Serve's word, such as RUNNING, DEPLOYING, DEPLOY_FAILED, UNHEALTHY, DELETING.
        config: as it was submitted, without what was left to its default, be it the name; None while it is being
            deleted, or if it was not deployed by REST.
        declarative: whether it was deployed by REST and so is subject to the next PUT.
        route_prefix: where it is, or will be, reached; None without a route.
        problems: what its deployments complain of, by deployment.
    """

    name: str
    status: str
    message: str = ""
    config: Mapping[str, Any] | None = None
    declarative: bool = True
    route_prefix: str | None = None
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServeState:
    """All applications of one Ray cluster.

    Attributes:
        controller: id of Serve's controller actor; empty while Serve does not run.
        options: the fields of ``KEPT_OPTIONS`` that are set.
    """

    controller: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    applications: Mapping[str, Application] = field(default_factory=dict)


def parse_state(answer: Any) -> ServeState:
    """Read the JSON of a GET.

    Raises:
        ValueError: it is not what Serve answers.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("applications"), dict):
        raise ValueError("no 'applications' in the answer")
    applications = {name: _application(name, fields) for name, fields in answer["applications"].items()}
    options = {name: answer[name] for name in KEPT_OPTIONS if answer.get(name) is not None}
    return ServeState(str((answer.get("controller_info") or {}).get("actor_id") or ""), options, applications)


def _application(name: str, fields: Any) -> Application:
    if not isinstance(fields, dict) or not isinstance(fields.get("status"), str):
        raise ValueError(f"application {name!r} has no status")
    config = fields.get("deployed_app_config")
    if not isinstance(config, dict | None):
        raise ValueError(f"the configuration of application {name!r} is no object")  # it could not be put back
    return Application(
        name=name,
        status=fields["status"],
        message=str(fields.get("message") or ""),
        config=config,
        declarative=fields.get("source", "declarative") == "declarative",
        route_prefix=_text(fields.get("route_prefix")) or route_of(config),
        problems=_problems(fields.get("deployments")),
    )


def route_of(config: Mapping[str, Any] | None) -> str | None:
    """The route that a configuration asks for: Serve's default is ``/``; None without a route."""
    return None if config is None else _text(config.get("route_prefix", "/"))


def _problems(deployments: Any) -> dict[str, str]:
    if not isinstance(deployments, dict):
        return {}
    details = {name: each for name, each in deployments.items() if isinstance(each, dict)}
    return {name: str(each["message"]) for name, each in details.items() if each.get("message")}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
