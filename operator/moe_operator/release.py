"""What the nodes of a Ray cluster need; both planes should be of one release."""

from __future__ import annotations

from moe_contract.release import DISTRIBUTION, release


def serving_requirement() -> str:
    """As pip takes it."""
    number = release()
    return f"{DISTRIBUTION}[serving]=={number}" if number else f"{DISTRIBUTION}[serving]"


RAY_VERSION = "2.60.0"
"""Of Ray, which the serving package of this release pins; a test compares the two."""
