"""Compile the solver's inner loops with Numba where it is installed (the extra ``fast``).

Imported only by the kernels, and these only once something is solved: ``import moe_placement`` stays light. Without
Numba the same functions run interpreted, about a hundred times slower; ``COMPILED`` tells the solver to look at fewer
sampled sets then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

try:
    import numba
except ImportError:
    COMPILED = False

    def compiled(function: Function) -> Function:
        """Leave the function as it is."""
        return function

    inlined = compiled_sums = compiled

else:
    from moe_placement.kernel_cache import KernelCache

    COMPILED = True

    def compiled(function: Function) -> Function:
        """Compile on the first call, kept on disk; the global interpreter lock is released while it runs."""
        jitted: Any = numba.njit(nogil=True)(function)
        jitted._cache = KernelCache(function)
        return cast(Function, jitted)

    def compiled_sums(function: Function) -> Function:
        """As ``compiled``; sums are taken in any order, products with them in one rounding, which vector units need.
        NaN and infinities stay what they are.
        """
        jitted: Any = numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})(function)
        jitted._cache = KernelCache(function)
        return cast(Function, jitted)

    def inlined(function: Function) -> Function:
        """Compile into each compiled function that calls it: for small ones that are called very often."""
        return cast(Function, numba.njit(nogil=True, forceinline=True)(function))


if COMPILED:

    @compiled
    def interpreter_is_late(deadline: float) -> bool:
        """False: a compiled search is over before a look at the clock would be worth it."""
        return False

else:

    def interpreter_is_late(deadline: float) -> bool:
        """Whether the monotonic clock is beyond ``deadline``, in seconds."""
        return time.monotonic() > deadline
