"""Which release this is. Processes of two releases meet in every upgrade: see ``base``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "moe-operator"


def release() -> str | None:
    """The version installed; None for a source tree that is not."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return None
