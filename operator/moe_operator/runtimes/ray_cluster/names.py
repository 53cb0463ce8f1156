"""Whose an application is, by its name. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
