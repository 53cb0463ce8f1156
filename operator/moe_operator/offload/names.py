"""The name by which a function is asked for in the other process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def job_name(job: Callable[..., Any]) -> str:
    return f"{job.__module__}.{job.__qualname__}"


PLANNING = "planning"
"""Preparation of a process that plans: kernels are compiled, or loaded from where they are kept."""
