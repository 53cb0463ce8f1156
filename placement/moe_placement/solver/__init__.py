"""From statistics to a placement: from scratch, or from the current one within limits.

- ``limits``: what a plan must respect; ``plan``: what comes out.
- ``solver``: layers in parallel, budgets, the clock, never worse than what is.
- ``layer``: one layer, nodes first, then shards.
- ``*_kernel``, ``families``: the inner loops and the cost table they look up (compiled where Numba is installed).
"""

from moe_placement.solver.limits import Limits
from moe_placement.solver.plan import Plan
from moe_placement.solver.solver import solve

__all__ = ["Limits", "Plan", "solve"]
