"""Expert placement for Mixture-of-Experts models: statistics in, a placement and a safe migration out.

Pure NumPy: no Kubernetes, no torch, no I/O but the command line's. Called by ``moe_operator`` to plan and by
``moe_serving`` to route; useful alone to anybody who serves a Mixture-of-Experts model.

Modules and packages bear nouns (``solver``, ``decision``), functions verbs (``solve``, ``decide``): a function exported
here under a module's name would hide that module.

Most processes need ``Placement`` and little else: what other names lead to is imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moe_placement.placement import Placement

if TYPE_CHECKING:
    from moe_placement.decision import Decision, Policy, decide
    from moe_placement.errors import (
        InfeasiblePlacementError,
        InvalidPlacementError,
        InvalidPolicyError,
        InvalidStatisticsError,
        InvalidTopologyError,
        InvalidTraceError,
        MismatchError,
        PlacementError,
    )
    from moe_placement.explanation import explain
    from moe_placement.initial import balanced_placement
    from moe_placement.migration import plan_migration
    from moe_placement.simulation import Figures, simulate
    from moe_placement.solver import Limits, Plan, solve
    from moe_placement.statistics import RoutingStatistics
    from moe_placement.topology import Costs, Topology, h100_nodes, one_host
    from moe_placement.verification import Observed, verify

__all__ = [
    "Costs",
    "Decision",
    "Figures",
    "InfeasiblePlacementError",
    "InvalidPlacementError",
    "InvalidPolicyError",
    "InvalidStatisticsError",
    "InvalidTopologyError",
    "InvalidTraceError",
    "Limits",
    "MismatchError",
    "Observed",
    "Placement",
    "PlacementError",
    "Plan",
    "Policy",
    "RoutingStatistics",
    "Topology",
    "balanced_placement",
    "decide",
    "explain",
    "h100_nodes",
    "one_host",
    "plan_migration",
    "simulate",
    "solve",
    "verify",
]

_MODULES = {
    "decision": ("Decision", "Policy", "decide"),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "explanation": ("explain",),
    "initial": ("balanced_placement",),
    "migration": ("plan_migration",),
    "simulation": ("Figures", "simulate"),
    "solver": ("Limits", "Plan", "solve"),
    "statistics": ("RoutingStatistics",),
    "topology": ("Costs", "Topology", "h100_nodes", "one_host"),
    "verification": ("Observed", "verify"),
}
"""What type checkers read above, by the module that has it."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            globals()[name] = value = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
