"""Which release this is; both planes must be of the same one."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "moe-operator"


def release() -> str | None:
    """The version installed; None for a source tree that is not."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return None


def serving_requirement() -> str:
    """What the nodes of a Ray cluster need, as pip takes it."""
    number = release()
    return f"{DISTRIBUTION}[serving]=={number}" if number else f"{DISTRIBUTION}[serving]"
