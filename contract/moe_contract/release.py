"""Which release this is. Processes of two releases meet in every upgrade: see ``base``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "moe-operator"


@cache
def release() -> str | None:
    """The version installed, read once from the disk; None for a source tree that is not."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return None
