"""What one reconcile observed: everything that planning and status may depend on, the time included."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Self

from pydantic import ValidationError

from moe_contract.applications import (
    DIRECTORY,
    DirectoryConfig,
    ModelArgs,
    application_name,
    shard_application_name,
)
from moe_contract.model import ModelFacts, ModelProblem
from moe_contract.report import CandidateReport, DirectoryReport
from moe_contract.serve.merge import Change, owned
from moe_contract.serve.state import Application, ServeState
from moe_contract.sizes import MOST_SHARDS, MOST_SLOTS_READ
from moe_operator.api import Identity, MoEDeployment, Reason
from moe_operator.text import on_one_line
from moe_placement import InvalidPlacementError, Placement
from moe_placement.encoding import decode_placement

ABSENT_CERTAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a condition tells: what is in the way, or how far things are; whoever's words, on one line."""

    reason: Reason
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", on_one_line(self.message))

    @classmethod
    def of(cls, problem: ModelProblem) -> Self:
        """What the directory found wrong with a model."""
        return cls(Reason.named(problem.reason), problem.message)


@dataclass(frozen=True, slots=True)
class KeyHashes:
    """SHA-256 hex digests: of the operator's key to the directory, and of the keys of clients (none: no key asked)."""

    internal: str
    api: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """One MoEDeployment and what there is of it.

    Attributes:
        serve: what its Ray cluster runs; None if that could not be read.
        serve_absent_seconds: for how long already it says that it runs no Serve at all.
        runtime_problem: why not; ``runtime_failing_seconds``: for how long already, as far as this process knows.
        failed_seconds: by name of an application that Serve has given up: for how long, as far as this process knows.
        keys: None if they could not be read; ``key_problem`` says why.
        report: of its directory; None if there is none (yet).
        report_problem: why there is none although its core application runs; ``report_failing_seconds`` as above.
        term: of this leadership, for the directory.
        remembered: what this process wrote to Ray last; None after a restart.
        tampered: applications that are there as somebody else changed them since.
        lost: applications that a foreign writer removed lately; they were put back.
        lost_often: whether the same is removed or changed each time that it is put back.
        edited: those that one changed, which was put right, and the path of what was changed.
    """

    moe: MoEDeployment
    now: datetime
    serve: ServeState | None = None
    serve_absent_seconds: float = 0.0
    runtime_problem: Finding | None = None
    runtime_failing_seconds: float = 0.0
    failed_seconds: Mapping[str, float] = field(default_factory=dict)
    keys: KeyHashes | None = None
    key_problem: Finding | None = None
    report: DirectoryReport | None = None
    report_problem: Finding | None = None
    report_failing_seconds: float = 0.0
    term: int = 1
    remembered: Change | None = None
    tampered: frozenset[str] = frozenset()
    lost: frozenset[str] = field(default_factory=frozenset)
    edited: Mapping[str, str] = field(default_factory=dict)
    lost_often: bool = False

    @cached_property
    def core_name(self) -> str:
        return core_name(self.moe)

    @cached_property
    def model(self) -> ModelArgs:
        """The arguments by which every process shall load the model that the spec names."""
        return ModelArgs(path=self.moe.model_path, dtype=self.moe.spec.model.dtype)

    @cached_property
    def running_model(self) -> ModelArgs:
        """Those by which what was submitted last loads its model; those of the spec before the first."""
        args = model_args(self.submitted.get(self.core_name, {}))
        try:
            return ModelArgs.model_validate(args) if args else self.model
        except ValidationError:
            return self.model

    @property
    def candidate(self) -> CandidateReport | None:
        """What the directory that runs found out about the model that the spec names, if it was asked to look."""
        found = self.report.candidate if self.report else None
        return found if found and found.args == self.model else None

    @cached_property
    def applications(self) -> Mapping[str, Application]:
        """Those of this deployment that exist, those being deleted included."""
        return owned(self.serve, self.core_name) if self.serve else {}

    def runs(self, change: Change) -> bool:
        """Whether all of ``change`` was found as it was submitted."""
        found = {name: application.config for name, application in self.applications.items()}
        return all(found.get(each["name"]) == each for each in change.applications)

    @property
    def nothing_is_left(self) -> bool:
        """Whether it is certain that no application of this deployment exists."""
        return self.serve is not None and is_certainly_empty(self.serve, self.core_name, self.serve_absent_seconds)

    @property
    def core(self) -> Application | None:
        """The core application, unless there is none or it is being deleted."""
        core = self.applications.get(self.core_name)
        return core if core and core.config is not None else None

    @cached_property
    def shard_applications(self) -> tuple[Application, ...]:
        """Those of expert shards, without those being deleted."""
        return tuple(
            application
            for name, application in self.applications.items()
            if name != self.core_name and application.config is not None
        )

    @cached_property
    def submitted(self) -> Mapping[str, Mapping[str, Any]]:
        """What this deployment was last told to run, by name: as Serve has it, else as this process remembers it.

        The memory bridges a loss: applications that a foreign writer, or a restart of Ray, removed come back as they
        were instead of from nothing. It is believed only while it is about the same model. What somebody else edited is
        not believed, lest a placement, or a model, that nobody asked for were planned from.
        """
        configs = {name: a.config for name, a in self.applications.items() if a.config is not None}
        if self.remembered is None:
            return configs
        remembered = {application["name"]: application for application in self.remembered.applications}
        configs |= {name: remembered[name] for name in self.tampered & remembered.keys()}
        if self.core_name in configs:
            return configs
        same = all(model_args(config) == self.model.model_dump(mode="json") for config in remembered.values())
        return {**remembered, **configs} if same else configs

    @cached_property
    def target(self) -> DirectoryConfig:
        """The placement that the directory was last told to reach; an empty one before the first."""
        try:
            return DirectoryConfig.model_validate(self.submitted_config(self.core_name, DIRECTORY))
        except ValidationError:
            return DirectoryConfig()

    @cached_property
    def target_placement(self) -> Placement | None:
        """The placement of ``target``, if it has one that can be read."""
        return _decoded(self.target.placement)

    def submitted_config(self, application: str, deployment: str) -> Mapping[str, Any]:
        """The ``user_config`` that a deployment of an application was given last; empty before the first."""
        entries = self.submitted.get(application, {}).get("deployments")
        for entry in entries if isinstance(entries, Sequence) else ():
            if isinstance(entry, Mapping) and entry.get("name") == deployment:
                return _mapping(entry.get("user_config"))
        return {}

    @cached_property
    def actual_placement(self) -> Placement | None:
        """The placement in force, as the directory reports it, if it does and it can be read."""
        return _decoded(self.report.placement) if self.report else None

    @property
    def facts(self) -> ModelFacts | None:
        """What the model is, if the directory knows."""
        return self.report.model if self.report else None

    @property
    def settled(self) -> bool:
        """Whether the data plane is where it was last told to be."""
        return bool(self.report and self.report.progress.settled and self.report.revision == self.target.revision)

    def shard_name(self, index: int) -> str:
        """Name of the application of shard ``index``."""
        return shard_application_name(self.core_name, index)


def model_args(config: Mapping[str, Any]) -> Any:
    """The model that an application was told to load; None if it was not. (Somebody else may have edited it.)"""
    return _mapping(config.get("args")).get("model")


def _decoded(text: str | None) -> Placement | None:
    """Ray, and whoever may write there, say what this is: it is bounded before it is unpacked."""
    try:
        placement = decode_placement(text, MOST_SLOTS_READ) if text else None
    except InvalidPlacementError:
        return None
    return placement if placement and placement.shards <= MOST_SHARDS else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


_LABEL = "[a-z0-9-]{1,63}"
_OURS = re.compile(rf"(?P<core>moe\.(?P<namespace>{_LABEL})\.(?P<name>{_LABEL})\.[0-9a-f]{{8}})([.]|$)")


@dataclass(frozen=True, slots=True)
class Owner:
    """The MoEDeployment that the name of an application tells; ``core`` is the name of its core application."""

    core: str
    namespace: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def owner_of(application: str) -> Owner | None:
    """Whose application this is by its name; None where it is none of a MoEDeployment's."""
    found = _OURS.match(application)
    return Owner(found["core"], found["namespace"], found["name"]) if found else None


def is_certainly_empty(serve: ServeState, core: str, absent_seconds: float) -> bool:
    """Whether nothing of the deployment exists, in a Serve that is known to run, or has been absent for some seconds.

    Ray says that it runs no Serve also when it does not find its controller for a moment. Whatever is let go then stays
    for ever.
    """
    return not owned(serve, core) and bool(serve.controller or absent_seconds >= ABSENT_CERTAIN_SECONDS)


def core_name(about: Identity) -> str:
    """Name of the core application of a MoEDeployment."""
    return application_name(about.metadata.namespace, about.metadata.name, about.metadata.uid)
