"""Objects as the commands read them. Pure.

Whoever may write objects may write much: fields of another type than they should be count as absent, and every text is
on one line, without what a terminal would obey, and has an end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from moe_operator.api.annotations import is_paused
from moe_operator.api.names import ANNOTATION_DRAIN, ANNOTATION_PAUSE
from moe_operator.api.phase import Phase
from moe_operator.kubectl.content import Content, read_content
from moe_operator.text import on_one_line

MOST_TEXT = 4096
"""Characters of one text, as of a condition's message."""
MOST_NUMBER = 2**53
_MOST_FIELDS = 64
_DEPTH = 4


class Condition(NamedTuple):
    """One aspect of a state."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True)
class _Object:
    raw: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.text("metadata", "name") or "?"

    @property
    def namespace(self) -> str:
        return self.text("metadata", "namespace") or "?"

    @property
    def key(self) -> str:
        """As messages call it."""
        return f"{self.namespace}/{self.name}"

    @property
    def uid(self) -> str:
        return self.text("metadata", "uid") or ""

    @property
    def created(self) -> datetime | None:
        """When it was made."""
        return moment(self.text("metadata", "creationTimestamp"))

    def at(self, *path: str) -> Any:
        """What is there; None where nothing is."""
        found: Any = self.raw
        for part in path:
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def text(self, *path: str) -> str | None:
        """A text."""
        found = self.at(*path)
        return shown(found) if isinstance(found, str) else None

    def number(self, *path: str) -> int | None:
        """A whole number that can be one of ours."""
        found = self.at(*path)
        good = isinstance(found, int) and not isinstance(found, bool) and abs(found) <= MOST_NUMBER
        return found if good else None

    def conditions(self) -> Iterator[Condition]:
        """Those of the status."""
        found = self.at("status", "conditions")
        for each in found[:_MOST_FIELDS] if isinstance(found, list) else ():
            if isinstance(each, Mapping):
                yield Condition(*(shown(str(each.get(field, ""))) for field in Condition._fields))

    def condition(self, kind: str) -> Condition | None:
        """That of a type."""
        return next((each for each in self.conditions() if each.type == kind), None)


@dataclass(frozen=True)
class Deployment(_Object):
    """A MoEDeployment."""

    @property
    def revision(self) -> int:
        """Revision of the placement that runs; 0 where none is told of."""
        return self.number("status", "placement", "revision") or 0

    @property
    def paused(self) -> bool:
        """Whether rebalancing is paused by annotation."""
        return is_paused(self.text("metadata", "annotations", ANNOTATION_PAUSE))

    @property
    def drained(self) -> str | None:
        """The annotation that names the shards to be drained."""
        return self.text("metadata", "annotations", ANNOTATION_DRAIN)


@dataclass(frozen=True)
class Placement(_Object):
    """An ExpertPlacement."""

    @property
    def deployment(self) -> str:
        """Name of its MoEDeployment."""
        return self.text("spec", "deploymentRef", "name") or "?"

    @property
    def revision(self) -> int:
        """Number of the placement; 0 where it has none."""
        return self.number("spec", "content", "revision") or 0

    @property
    def base(self) -> int:
        """Revision that it was written from."""
        return self.number("spec", "content", "baseRevision") or 0

    @property
    def decision(self) -> str:
        """What somebody decided."""
        return self.text("spec", "decision") or "Pending"

    @property
    def phase(self) -> Phase | None:
        """Where it is on its way; None where nobody has looked, or it is one of another release."""
        told = self.text("status", "phase")
        return Phase(told) if told in {str(each) for each in Phase} else None

    @property
    def content(self) -> Content:
        """
        Raises:
            PluginError: nobody can read it.
        """
        return read_content(self.name, self.at("spec", "content"))

    @property
    def bytes_per_expert(self) -> int | None:
        """Bytes of an expert, by the price; None where there is none."""
        moves, size = self.number("status", "price", "moves"), self.number("status", "price", "bytes")
        return size // moves if moves and size and moves > 0 else None


def shown(text: str) -> str:
    """What others wrote, as it may stand in a terminal."""
    line = on_one_line(text[:MOST_TEXT])
    return line if len(text) <= MOST_TEXT else f"{line} …"


def plain(value: Any, depth: int = _DEPTH) -> Any:
    """A part of a status as it stands, within bounds, for ``-o json``; None in place of what is deeper than a status
    is."""
    if isinstance(value, str):
        return shown(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth and isinstance(value, Mapping):
        few = list(value.items())[:_MOST_FIELDS]
        return {shown(str(name)): plain(each, depth - 1) for name, each in few}
    if depth and isinstance(value, list):
        return [plain(each, depth - 1) for each in value[:_MOST_FIELDS]]
    return None


def moment(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it, with its zone; None for anything else."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else None
