"""What a change of a deployment was decided from. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from moe_contract.serve.merge import owned
from moe_contract.serve.state import ServeState


@dataclass(frozen=True, slots=True)
class Basis:
    """A Serve, by the id of its controller, and the names of the applications of the deployment that it had."""

    controller: str
    applications: frozenset[str] = frozenset()

    @classmethod
    def of(cls, state: ServeState, core: str) -> Self:
        return cls(state.controller, frozenset(owned(state, core)))

    def is_stale(self, state: ServeState, core: str) -> bool:
        """Whether another Serve runs by now, or something of the deployment that was not there then."""
        now = Basis.of(state, core)
        return now.controller != self.controller or not now.applications <= self.applications
