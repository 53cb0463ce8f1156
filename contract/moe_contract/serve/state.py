"""What Serve runs, as its GET says: the configuration submitted last and the state of each application.

Pure, and what is kept of an answer is bounded: anybody may answer. One of size takes long to read, so the operator does
that in a process aside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from moe_contract.applications import CORE_IMPORT_PATH, SHARD_IMPORT_PATH
from moe_contract.serve.config import JsonConfig, as_json, values_at_most

MOST_BYTES = 12 * 1024 * 1024
"""Of an answer: that of some thousand applications is about 10 MB, most of which is not kept."""
MOST_APPLICATIONS = 8192
MOST_KEPT = 6 * 1024 * 1024
"""Characters of names, configurations and messages that are kept of all applications together."""
MOST_VALUES = 200_000
"""Values in what is looked into, our applications and options: a deployment of 1024 shards has 30,000."""
_VALUE_BYTES = 64
"""Of memory that a value takes at least, once a configuration of ours is looked into."""
MOST_NAME = 1024
_SAID = 2000
"""Characters of a message: the last ones, which of a traceback say what was wrong."""
_MOVING = "PENDING_MIGRATION"
"""Serve's word for the state of a replica on a node that Ray drains."""
_DEPLOYMENTS = 64
"""Of one application: those whose complaints are kept."""

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
        moving: whether Serve moves a replica of it off a node that is being drained: another one is to start elsewhere
            before that one ends.
    """

    name: str
    status: str
    message: str = ""
    config: Mapping[str, Any] | None = None
    declarative: bool = True
    route_prefix: str | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    moving: bool = False


@dataclass(frozen=True, slots=True)
class ServeState:
    """All applications of one Ray cluster.

    Attributes:
        controller: id of Serve's controller actor; empty while Serve does not run.
        options: the fields of ``KEPT_OPTIONS`` that are set.
        size: bytes that it takes in memory, as far as others can make it grow.
    """

    controller: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    applications: Mapping[str, Application] = field(default_factory=dict)
    size: int = 0


class StateTooLargeError(ValueError):
    """Serve tells of more than can be worked with; the message names the bound."""


def read_state(body: bytes | bytearray) -> ServeState:
    """Read the body of a GET.

    Raises:
        StateTooLargeError: it is larger than what can be worked with.
        ValueError: it is not what Serve answers; the message says what it is.
    """
    try:
        return parse_state(json.loads(body))
    except StateTooLargeError:
        raise
    except RecursionError:
        raise StateTooLargeError("is nested too deep") from None
    except (ValueError, TypeError, AttributeError):
        shape = "an HTML page" if body[:64].lstrip()[:1] == b"<" else "not the JSON expected"
        raise ValueError(shape) from None


def parse_state(answer: Any) -> ServeState:
    """Read the JSON of a GET.

    Raises:
        StateTooLargeError: as from ``read_state``.
        ValueError, TypeError, AttributeError: it is not what Serve answers.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("applications"), dict):
        raise ValueError("no 'applications' in the answer")
    found = answer["applications"]
    if len(found) > MOST_APPLICATIONS:
        raise StateTooLargeError(f"tells of {len(found)} applications; at most {MOST_APPLICATIONS} can be worked with")
    applications = {name: _application(name, fields) for name, fields in found.items()}
    options = {name: answer[name] for name in KEPT_OPTIONS if answer.get(name) is not None}
    told_options = json.dumps(options)
    size = len(told_options) + sum(map(_size, applications.values()))
    if size > MOST_KEPT:
        raise StateTooLargeError(f"tells of {size >> 20} MiB of configurations; at most {MOST_KEPT >> 20} can be kept")
    looked_into = [told_options, *(as_json(app.config) for app in applications.values() if is_ours(app.config))]
    values = sum(map(values_at_most, looked_into))
    if values > MOST_VALUES:
        raise StateTooLargeError(
            f"tells of {values} values in options and applications of ours; at most {MOST_VALUES} can be read"
        )
    controller = str((answer.get("controller_info") or {}).get("actor_id") or "")
    return ServeState(controller[:MOST_NAME], options, applications, size + _VALUE_BYTES * values)


def is_ours(config: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Whether an application is one that this project renders."""
    return config is not None and config.get("import_path") in (CORE_IMPORT_PATH, SHARD_IMPORT_PATH)


def _size(application: Application) -> int:
    said = len(application.message) + sum(len(name) + len(text) for name, text in application.problems.items())
    return len(application.name) + said + (0 if application.config is None else len(as_json(application.config)))


def _application(name: str, fields: Any) -> Application:
    if not isinstance(fields, dict) or not isinstance(fields.get("status"), str):
        raise ValueError(f"application {name!r} has no status")
    config = fields.get("deployed_app_config")
    if not isinstance(config, dict | None):
        raise ValueError(f"the configuration of application {name!r} is no object")  # it could not be put back
    if len(name) > MOST_NAME:
        raise StateTooLargeError(f"tells of an application whose name has {len(name)} characters")
    return Application(
        name=name,
        status=fields["status"][:MOST_NAME],
        message=_end_of(fields.get("message")),
        config=None if config is None else JsonConfig.of(config),
        declarative=fields.get("source", "declarative") == "declarative",
        route_prefix=_route(fields.get("route_prefix")) or route_of(config),
        problems=_problems(fields.get("deployments")),
        moving=_is_moving(fields.get("deployments")),
    )


def route_of(config: Mapping[str, Any] | None) -> str | None:
    """The route that a configuration asks for: Serve's default is ``/``; None without a route."""
    return None if config is None else _route(config.get("route_prefix", "/"))


def _problems(deployments: Any) -> dict[str, str]:
    if not isinstance(deployments, dict):
        return {}
    details = {name: each for name, each in deployments.items() if isinstance(each, dict)}
    told = [(name[:MOST_NAME], _end_of(each["message"])) for name, each in details.items() if each.get("message")]
    return dict(told[:_DEPLOYMENTS])


def _is_moving(deployments: Any) -> bool:
    if not isinstance(deployments, dict):
        return False
    replicas = [each.get("replicas") for each in deployments.values() if isinstance(each, dict)]
    found = (replica for some in replicas if isinstance(some, list) for replica in some if isinstance(replica, dict))
    return any(replica.get("state") == _MOVING for replica in found)


def _end_of(message: Any) -> str:
    return str(message)[-_SAID:] if message else ""


def _route(value: Any) -> str | None:
    return None if value is None else str(value)[:MOST_NAME]
