"""Threads for text: long texts have their own, so that the short ones of others never wait behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LONG = 32_768
"""Characters; what is shorter takes a few hundredths of a second."""

# Tokenizers let go of Python's lock while they work: a long text costs a core, not the others' turns.
_SHORT_TEXTS = ThreadPoolExecutor(4, thread_name_prefix="encode")
_LONG_TEXTS = ThreadPoolExecutor(2, thread_name_prefix="encode-long")


async def in_thread(characters: int, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``do(*args, **kwargs)`` in a thread for texts of that length."""
    pool = _LONG_TEXTS if characters > LONG else _SHORT_TEXTS
    return await asyncio.get_running_loop().run_in_executor(pool, partial(do, *args, **kwargs))
