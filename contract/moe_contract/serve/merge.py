"""Our applications into what a Ray cluster runs. Pure.

A PUT replaces every declarative application, so what it lacks is deleted: the configuration to write is what is there,
with the applications of the deployments that changed replaced and everything else kept as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_contract.applications import CORE_IMPORT_PATH
from moe_contract.serve.config import as_json
from moe_contract.serve.state import Application, ServeState, is_ours, route_of

Config = Mapping[str, Any]

MAX_PATH = 200
"""Characters that are told of the place in which somebody edited a configuration."""

API_PATHS = ("/v1", "/internal", "/healthz", "/metrics")
"""What the api of a deployment answers below its route prefix. Serve sends a request to the longest prefix that fits,
so whoever has one of these, or one below, takes requests, API keys included, that are meant for that deployment."""


@dataclass(frozen=True, slots=True)
class Change:
    """All that one deployment wants to run.

    Attributes:
        core: name of its core application; its other applications are named ``<core>.…``.
        applications: as entries of Serve's ``applications``; an application of its own that is missing is removed.
        http_options: with which to start Serve, where it does not run yet; it takes them once and for all.
        proxy_location: the same for where Serve answers; on every node, where nothing is said.
    """

    core: str
    applications: tuple[Config, ...]
    http_options: Config | None = None
    proxy_location: str | None = None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(application["name"] for application in self.applications)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a change was left out.

    Attributes:
        route: the route prefix wanted; None if ``owner`` is a foreign application with a name of ours.
        owner: name of an application.
        path: what ``owner`` answers, where that is not ``route`` itself but of two paths one lies below the other.
    """

    route: str | None
    owner: str
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Merge:
    """What to write.

    Attributes:
        applications: all that shall run, foreign ones first and as they were.
        changed: whether that differs from what was submitted last.
        conflicts: the changes left out, by ``core``; what they run already stays.
    """

    applications: tuple[Config, ...]
    changed: bool
    conflicts: Mapping[str, Conflict]


def belongs(name: str, core: str) -> bool:
    """Whether this is a name for an application of the deployment whose core application is ``core``."""
    return name == core or name.startswith(core + ".")


def owned(state: ServeState, core: str) -> dict[str, Application]:
    """The applications of one deployment that exist, those being deleted included."""
    return {
        name: application
        for name, application in state.applications.items()
        if belongs(name, core) and (application.config is None or is_ours(application.config))
    }


def merge(state: ServeState, changes: Sequence[Change]) -> Merge:
    """Put changes into what is there; of two that want the same route the earlier one has it."""
    submitted = {name: a.config for name, a in state.applications.items() if a.declarative and a.config is not None}
    wanted = dict(submitted)
    conflicts: dict[str, Conflict] = {}
    for change in changes:
        conflict = _conflict(state, wanted, change)
        if conflict:
            conflicts[change.core] = conflict
            continue
        for name, config in list(wanted.items()):
            if belongs(name, change.core) and is_ours(config) and name not in change.names:
                del wanted[name]
        wanted.update((application["name"], application) for application in change.applications)
    return Merge(tuple(wanted.values()), wanted != submitted, conflicts)


def _conflict(state: ServeState, wanted: Mapping[str, Config], change: Change) -> Conflict | None:
    for name in change.names & state.applications.keys():
        config = state.applications[name].config
        if config is not None and not is_ours(config):
            return Conflict(None, name)
    others = [other for other in _routes(state, wanted) if not belongs(other.application, change.core)]
    for application in change.applications:
        mine = _Route.of(application["name"], application)
        conflict = mine and (_same(mine, others) or _nested(mine, others, wanted))
        if conflict:
            return conflict
    return None


@dataclass(frozen=True, slots=True)
class _Route:
    """A route prefix, whose it is, and whether below it one of our apis answers."""

    prefix: str
    application: str
    is_api: bool = False

    @classmethod
    def of(cls, name: str, config: Config) -> _Route | None:
        """Of the application ``name``: Ray leaves the name out of a configuration that left it to its default."""
        prefix = route_of(config)
        return None if prefix is None else cls(prefix, name, config.get("import_path") == CORE_IMPORT_PATH)

    def path_of(self, other: _Route) -> str | None:
        """The path of this one's api that ``other`` would take, if it would."""
        if not self.is_api:
            return None
        paths = (self.prefix.rstrip("/") + path for path in API_PATHS)
        return next((path for path in paths if f"{other.prefix}/".startswith(f"{path}/")), None)


def _same(mine: _Route, others: Sequence[_Route]) -> Conflict | None:
    return next((Conflict(mine.prefix, other.application) for other in others if other.prefix == mine.prefix), None)


def _nested(mine: _Route, others: Sequence[_Route], wanted: Mapping[str, Config]) -> Conflict | None:
    """Of two, the one that came later; what has its route already is not disturbed for another's sake."""
    before = wanted.get(mine.application)
    if before is not None and _Route.of(mine.application, before) == mine:
        return None
    for other in others:
        path = other.path_of(mine) or (other.prefix if mine.path_of(other) else None)
        if path:
            return Conflict(mine.prefix, other.application, path)
    return None


def _routes(state: ServeState, wanted: Mapping[str, Config]) -> list[_Route]:
    """Of those that run without REST, those on their way out and those wanted."""
    others = (_Route(a.route_prefix, n) for n, a in state.applications.items() if n not in wanted and a.route_prefix)
    return [*others, *(route for name, config in wanted.items() if (route := _Route.of(name, config)))]


def difference(ours: Any, theirs: Any, path: str = "") -> str | None:
    """Path of the first value in which a configuration is another one, such as ``deployments.api.user_config``; None if
    they are equal. Entries of a list are told apart by their names, where they have some."""
    if ours == theirs:
        return None
    left, right = _by_name(ours), _by_name(theirs)
    if left is None or right is None:
        return path[:MAX_PATH]
    differing = (key for key in (*left, *right) if key not in left or key not in right or left[key] != right[key])
    key = next(differing, None)
    if key is None:  # an empty list in place of an empty object, or names that are there twice
        return path[:MAX_PATH]
    if key not in left or key not in right:
        return f"{path}.{key}".lstrip(".")[:MAX_PATH]
    return difference(left[key], right[key], f"{path}.{key}".lstrip("."))


def _by_name(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, Mapping) and "name" in each for each in value):
        return {str(each["name"]): each for each in value}
    return None


def body(state: ServeState, applications: Sequence[Config], changes: Sequence[Change]) -> str:
    """The body of the PUT: the applications, and the options beside them as they are."""
    start = {} if state.controller else _start(changes)
    options = json.dumps({**state.options, **start})
    listed = f'"applications":[{",".join(map(as_json, applications))}]'
    return f"{options[:-1]},{listed}}}" if options != "{}" else f"{{{listed}}}"


def _start(changes: Sequence[Change]) -> Config:
    """With what Serve starts: what the first says that says something."""
    options = ("http_options", "proxy_location")
    said = ((name, value) for change in reversed(changes) for name in options if (value := getattr(change, name)))
    return dict(said)
