"""What the operator asks of whatever a deployment runs on: ``observe``, ``apply``, ``remove``.

``reconcile`` decides what shall run and knows of runtimes no more than this module. Each runtime (``ray_cluster``) has
its own addresses, tokens and words, and tells what it finds in those of a deployment: applications, shards, the
directory. Pure; what is in the way of a call is a ``Finding`` in its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

from moe_contract.applications import DirectoryConfig, ModelArgs, application_name
from moe_contract.rendering import Desired
from moe_contract.report import DirectoryReport
from moe_operator.api import Identity, MoEDeployment
from moe_operator.finding import Finding


def core_name(about: Identity) -> str:
    """Name of the core application of a MoEDeployment."""
    return application_name(about.metadata.namespace, about.metadata.name, about.metadata.uid)


class ApplicationPhase(Enum):
    """How an application is."""

    STARTING = auto()
    """Not all of its processes run yet."""
    RUNNING = auto()
    UNHEALTHY = auto()
    """It ran, and some of it does not any more; the runtime restarts that."""
    FAILED = auto()
    """It could not be started, and the runtime does not try again."""


@dataclass(frozen=True, slots=True)
class Application:
    """The core application or that of one shard.

    Attributes:
        problem: what is wrong with it, where its phase is UNHEALTHY or FAILED.
        route_prefix: where it is, or will be, reached; None without a route.
        leaving: whether it is on its way out.
        moved: whether the runtime moves it off a node that is being drained: it starts elsewhere, and then ends there.
    """

    name: str
    phase: ApplicationPhase
    problem: Finding | None = None
    route_prefix: str | None = None
    leaving: bool = False
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What one application was told last, as far as that can be read: whoever may write to the runtime wrote it.

    Attributes:
        model: that it loads; None if it was told none.
        served_name: of the core; None for a shard, or if it was told none.
        directory: of the core, None if it cannot be read; the empty one for a shard.
        slots_per_shard: of a shard; 0 for the core, or if it was told none.
        contract: the least whose fields are all that it was told.
        actor_options: what it asks of its node (``Resources.actor_options``): a shard, and of the core attention.
    """

    model: ModelArgs | None
    served_name: str | None = None
    directory: DirectoryConfig | None = field(default_factory=DirectoryConfig)
    slots_per_shard: int = 0
    contract: int = 0
    actor_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """What one node has to hand out, in all.

    Attributes:
        accelerators: kinds of them.
    """

    gpus: float = 0.0
    accelerators: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RuntimeState:
    """What runs of one deployment, and what its directory says. Without ``answers`` nothing is known of what runs, and
    nothing can be written.

    Attributes:
        answers: that the runtime could be read, in words.
        unreachable: why it could not.
        unasked: why it was not even tried, as for want of a token.
        applications: those that exist, by name, those on their way out included.
        told: by name, what the deployment was told last; also of an application that is gone by no wish of the
            operator's, which is to come back as it was.
        nothing_is_left: whether it is certain that no application exists.
        foreign_writer: what somebody else changed or removed lately, and was put right.
        report: of the directory; None if there is none (yet) or it cannot be had.
        report_problem: why not, if it was asked.
        nodes: that there are; None where it is not known, or nothing is asked of them.
        pods_problem: why pods of what answers are not made, do not come up or do not stay.
        upgrading: that what runs is being replaced as a whole: until that is over nothing is told to it.
        held: that something of the spec comes into effect once the user allows it.
        pod_labels: by which the pods of what answers are told from others of the deployment; none where it has none.
        holds_requests: whether requests are held while nothing of it runs, and have it woken.
        not_woken: why they could not have it woken.
        caches_go: whether nodes go when the model is replaced, and with them the files that they have fetched.
        evictions: that pods may be evicted though it is not known what they hold, or may not, for long already.
        basis: of the runtime's own: by what ``apply`` tells whether something else runs by then.
    """

    answers: Finding | None = None
    unreachable: Finding | None = None
    unasked: Finding | None = None
    applications: Mapping[str, Application] = field(default_factory=dict)
    told: Mapping[str, Told] = field(default_factory=dict)
    nothing_is_left: bool = False
    foreign_writer: Finding | None = None
    report: DirectoryReport | None = None
    report_problem: Finding | None = None
    nodes: tuple[Node, ...] | None = None
    pods_problem: Finding | None = None
    upgrading: Finding | None = None
    held: Finding | None = None
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    holds_requests: bool = False
    not_woken: Finding | None = None
    caches_go: bool = False
    evictions: Finding | None = None
    basis: object = None

    @property
    def is_known(self) -> bool:
        """Whether it is known what runs."""
        return self.answers is not None

    def standing(self, name: str) -> Application | None:
        """An application, unless there is none of that name or it is on its way out."""
        found = self.applications.get(name)
        return None if found is None or found.leaving else found


class Effect(Enum):
    """What became of an ``apply``."""

    WRITTEN = auto()
    EQUAL = auto()
    """It was told so already; nothing was written."""
    HELD_BACK = auto()
    """Not yet: the same was written again and again, and did not stay."""
    IN_THE_WAY = auto()
    """Something of somebody else's is, until one of both changes."""
    REFUSED = auto()
    """The runtime did not take it, or could not be asked, or it may not be sent."""
    STALE = auto()
    """Something else runs by now than ``desired`` was decided from: look and decide anew."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Attributes:
    problem: why nothing was written, where that is to be told.
    foreign_writer: as in ``RuntimeState``, with what was noticed by this write.
    """

    effect: Effect
    problem: Finding | None = None
    foreign_writer: Finding | None = None


class Runtime(Protocol):
    """What one deployment runs on; one object for as long as this process works the deployment. What it remembers
    between calls may be lost: that costs a moment's patience, never state."""

    @property
    def where(self) -> str:
        """The address, as logs and messages name it."""

    async def observe(self, moe: MoEDeployment) -> RuntimeState:
        """All that can be seen now.

        Raises:
            StaleBasisError: what it was asked with changed meanwhile: ask again.
            KubeError: the API server refused or did not answer.
        """

    def statistics(self, moe: MoEDeployment, state: RuntimeState) -> AbstractAsyncContextManager[bytearray]:
        """What the directory of a deployment gathered of its traffic, as the brain's ``encode_statistics`` packs it;
        empty before there was any. It is held while inside: others may wait for that.

        Raises:
            OperatorError: it cannot be had; the message says why.
        """

    async def apply(
        self, moe: MoEDeployment, desired: Desired | None, basis: RuntimeState, without: Collection[str] = ()
    ) -> Outcome:
        """Have the deployment run what is ``desired``, or nothing, as was decided from ``basis``.

        ``without``: names of applications that are left out for now, so that they are made anew.

        Raises:
            LeadershipLostError: this process may no longer write.
        """

    async def remove(self, moe: MoEDeployment) -> Finding | None:
        """Have nothing of the deployment run; None once it is certain that nothing does, else what is waited for:
        ``Reason.DELETING`` for what stops, any other reason for what is in the way.

        Raises:
            StaleBasisError, KubeError: as ``observe``; LeadershipLostError: as ``apply``.
        """


class Runtimes(Protocol):
    """All that this process knows."""

    def open(self, moe: MoEDeployment) -> Runtime:
        """What a deployment runs on.

        Raises:
            InvalidObjectError: its spec names none.
        """

    def orphaned(self, uids: Callable[[str], Collection[str] | None]) -> int:
        """How many applications were seen of objects that are not there.

        ``uids``: of the objects of a key (``namespace/name``) that are worked; None where that is not known.
        """
