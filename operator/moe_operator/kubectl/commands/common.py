"""What the commands share: what they are given, what they return, and how they find objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from moe_operator.api.names import PLACEMENT_PLURAL, PLURAL, placement_name
from moe_operator.kubectl.cluster import Cluster
from moe_operator.kubectl.exits import UsageError
from moe_operator.kubectl.terminal import Terminal
from moe_operator.kubectl.view import MOST_NUMBER, Deployment, Placement

_REVISION = re.compile(r"(?:.*-)?r?(\d{1,10})")


@dataclass(frozen=True, slots=True)
class Request:
    """Attributes:
    name: of the MoEDeployment; empty for all of the namespace.
    revisions: as written.
    shards: to be drained; ``stop``: no longer.
    now: UTC.
    """

    cluster: Cluster
    terminal: Terminal
    now: datetime
    name: str = ""
    revisions: Sequence[str] = ()
    shards: Sequence[int] = ()
    stop: bool = False

    def deployment(self) -> Deployment:
        """
        Raises:
            PluginError: it cannot be read; ``NotThereError`` if there is none.
        """
        return Deployment(self.cluster.get(PLURAL, self.name))

    def deployments(self) -> list[Deployment]:
        """The one that is named, or all."""
        return [self.deployment()] if self.name else [Deployment(raw) for raw in self.cluster.list(PLURAL)]

    def placement(self, revision: int) -> Placement:
        """That of a revision of the deployment."""
        return Placement(self.cluster.get(PLACEMENT_PLURAL, placement_name(self.name, revision)))

    def placements(self) -> list[Placement]:
        """All of the deployment, or of all, by revision."""
        found = [Placement(raw) for raw in self.cluster.list(PLACEMENT_PLURAL)]
        ours = [each for each in found if not self.name or each.deployment == self.name]
        return sorted(ours, key=lambda each: (each.deployment, each.revision))

    def revision(self, index: int = 0) -> int:
        """The number of the revision that is named, as 8, r8 or tiny-r8.

        Raises:
            UsageError: it is none, or another deployment's.
        """
        written = self.revisions[index]
        found = _REVISION.fullmatch(written)
        if found is None or int(found[1]) < 1:
            raise UsageError(f"{written[:80]!a} is no revision: write its number, such as 8, or {self.name}-r8")
        number = int(found[1])
        if "-" in written and written != placement_name(self.name, number):
            raise UsageError(f"{written[:80]!a} is not of {self.name}: write {placement_name(self.name, number)}")
        return number


@dataclass(frozen=True, slots=True)
class Answer:
    """Attributes:
    data: for ``-o json``.
    lines: for people.
    """

    data: Any
    lines: list[str] = field(default_factory=list)


FIGURES = {
    "balance": "BALANCE",
    "fanOut": "FAN-OUT",
    "nodeFanOut": "NODE-FAN-OUT",
    "rows": "ROWS",
    "latency": "MS/TOKEN",
}
"""Figures in an ExpertPlacement's status, and the titles of their columns."""


def known_figures(placement: Placement) -> Iterator[tuple[str, dict[str, str]]]:
    """The figures of a placement that are known, by when they are of: counted before, foretold, and counted since."""
    for part in ("before", "predicted", "measured"):
        told = {name: _figure(placement, part, name) for name in FIGURES}
        figures = {name: value for name, value in told.items() if value is not None}
        if figures:
            yield part, figures


def _figure(placement: Placement, part: str, name: str) -> str | None:
    if name == "latency":
        return _latency(placement.at("status", part, name))
    number = placement.number("status", part, name)
    return placement.text("status", part, name) if number is None else str(number)


def _latency(told: Any) -> str | None:
    """The median of the steps that most tokens were of, and how many rows these had."""
    names = ("tokens", "rows", "medianMicroseconds")
    each_told = told if isinstance(told, list) else []
    read: list[list[Any]] = [[each.get(name) for name in names] for each in each_told if isinstance(each, dict)]
    known = [pace for pace in read if all(isinstance(value, int) and 0 <= value <= MOST_NUMBER for value in pace)]
    if not known:
        return None
    _, rows_of_step, median = max(known)
    return f"{median / 1000:.3g} at {rows_of_step} rows"


def latest_figures(found: Deployment | Placement, *path: str) -> Iterator[str]:
    """Balance and fan-out as the status has them at ``path``, in words, where they are known."""
    for title, name in (("balance", "balance"), ("fan-out", "fanOut")):
        if value := found.text("status", *path, name):
            yield f"{title} {value}"
